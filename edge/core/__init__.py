"""What a device does next: pure. One state machine, and what it hears, wants done, remembers and knows."""

"""One device: it keeps its recordings, trains on them when a round asks, and sends nothing but the difference."""

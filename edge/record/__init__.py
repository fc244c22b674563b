"""Recordings on the device: what records them, how they lie on disk, their annotations, and the commands for them."""

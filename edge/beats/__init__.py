"""A lead becomes beats, and each beat what it is beside its owner's own: pure."""

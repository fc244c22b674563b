"""The one impure room of ``schemas``: a seam to brokers, and what stands behind it."""

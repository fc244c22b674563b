"""From samples as a sensor gives them to R peaks: causal stages that carry their state from chunk to chunk. Pure.

However a signal is cut into chunks, the same bits come out: what a device sees live is what it sees in a recording.
"""

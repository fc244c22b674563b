"""From samples as a sensor gives them to R peaks: causal stages that carry their state from chunk to chunk. Pure.

However a signal is cut into chunks, the same bits come out: what a device sees live is what it sees in a recording.
"""

from edge.late_modules import OF_FILTERS, put_off

for _module, _functions in OF_FILTERS.items():  # before the first filter imports scipy.signal
    put_off(_module, _functions)

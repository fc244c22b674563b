"""What both ends must agree on to talk, and nothing else."""

from typing import Final

__version__ = "0.1.0"  # of the whole distribution, here so that a device needn't ask the installation for it
SOFTWARE: Final = f"fedbeat {__version__}"  # as each end says it of itself

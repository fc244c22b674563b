"""``python -m edge``: the ``edge`` command, for a parent process that has no console script on its path."""

from edge.cli import main

main()

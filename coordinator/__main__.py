"""``coordinator``, and ``python -m coordinator``."""

import sys


def main() -> None:
    """The command; a Ctrl-C while it is still being imported ends it as one that comes later does."""
    try:
        from coordinator.cli import main as command  # noqa: PLC0415 - within what hears the Ctrl-C
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

"""``edge``, and ``python -m edge`` for a parent process that has no console script on its path."""

import sys


def main() -> None:
    """The command; a Ctrl-C while it is still being imported ends it as one that comes later does."""
    try:
        if sys.argv[1:2] == ["run"]:  # a waiting device carries all that was ever imported
            from edge.late_modules import put_off_unused  # noqa: PLC0415 - before pydantic, which imports some of it

            put_off_unused()
        from edge.cli import main as command  # noqa: PLC0415 - behind that
    except KeyboardInterrupt:
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()

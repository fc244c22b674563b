"""Options that several of a device's commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Within(click.FloatRange):
    """A number within bounds; ``nan``, which click takes for one within any, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def source_option(*names: str, help: str) -> Callable[[F], F]:  # noqa: A002 - as click calls it
    """Add the choice of a live signal; the word ``help`` in its place lists the kinds there are, and that is all."""
    return click.option(*names, metavar="SOURCE", callback=_listed, help=help)


def _listed(context: click.Context, _: click.Parameter, given: str | None) -> str | None:
    if given == "help":
        from edge.live import kinds  # noqa: PLC0415 - for who asks

        click.echo(f"a signal is one of these:\n{kinds()}")
        context.exit()
    return given


def trainer_options(command: F) -> F:
    """Add the options of every command that has a trainer process of a real device's."""
    options = (
        click.option(
            "--trainer-idle",
            type=float,
            metavar="S",
            help="seconds the trainer process is kept idle (default by memory: 5 below 1 GB, 30 below 3, else 600)",
        ),
        click.option(
            "--trainer-threads", type=int, metavar="N", help="of its process (default: half of the cores, at most 4)"
        ),
        click.option(
            "--trainer-nice", type=int, metavar="N", help="how far it steps back for others, 0 to 19 (default: 10)"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def personal_options(command: F) -> F:
    """Add how each device fits the global model to its owner."""
    how = "its owner's own model: ditto, fine-tune, local-layers (default: off)"
    layers = "with commas between: the layers that are the owner's own"
    command = click.option("--local-layers", metavar="NAMES", help=layers)(command)
    return click.option("--personal", metavar="METHOD", help=how)(command)


def detector_option(command: F) -> F:
    """Add the choice of what finds the beats of a recording."""
    told = "what finds a recording's beats: the device's own detector, or SleepECG's (fedbeat[sleepecg])"
    choice = click.Choice(["own", "sleepecg"])
    return click.option("--detector", type=choice, default="own", show_default=True, help=told)(command)

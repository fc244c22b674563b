"""The ``coordinator`` command. Options and words only: what they start lives beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coordinator.config import CoordinatorSettings
from schemas import __version__
from schemas.command_line import EXIT_CODES, GROUP, PATH, SETTINGS_PATH, broker_options, given, run
from schemas.settings import Origin, load, table

TABLES = {  # flags that are entries of a table in the settings file
    "strategy": ("strategy", "name"),
    "weighting": ("strategy", "weighting"),
    "server_learning_rate": ("strategy", "learning_rate"),
    "optimizer": ("train", "optimizer"),
    "learning_rate": ("train", "learning_rate"),
    "batch_size": ("train", "batch_size"),
    "epochs": ("train", "epochs"),
    "local_steps": ("train", "local_steps"),
    "proximal": ("train", "proximal"),
    "class_weights": ("train", "class_weights"),
}


def main() -> None:
    """The console script."""
    run(cli)


@click.group(context_settings=GROUP, epilog=EXIT_CODES)
@click.version_option(__version__)
def cli() -> None:
    """Run a federation: offer rounds to devices, average what they send, publish the model."""


def read_settings(config: Path | None, flags: dict[str, Any]) -> tuple[CoordinatorSettings, tuple[Origin, ...]]:
    """The settings with the flags that were given over everything else."""
    entries: dict[str, Any] = {}
    for name, value in given(flags).items():
        if name in TABLES:
            group, entry = TABLES[name]
            entries.setdefault(group, {})[entry] = value
        else:
            entries[name] = value
    return load(CoordinatorSettings, entries, config)


def split_weights(_: click.Context, __: click.Parameter, value: str | None) -> object:
    """``none``, ``balanced``, or numbers with commas, one a class."""
    if value is None or value in {"none", "balanced"}:
        return value
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("use none, balanced, or one number a class with commas between") from None


@cli.command()
@broker_options
@click.option("--rounds", type=int, metavar="N", help="training rounds to run (default: 5)")
@click.option("--plan", metavar="NAME|FILE", help="a bundled plan (ecg-beats, ecg-masked, watch, ...) or a .plan file")
@click.option("--model", metavar="FILE:CLASS", help="an nn.Module of yours, exported as the plan on the way")
@click.option("--input", multiple=True, metavar="SHAPE", help="of the --model: 6x150, or name=6x150 each")
@click.option("--classes", metavar="N|NAMES", help="of the --model: how many, or their names with commas between")
@click.option("--recipe", metavar="NAME", help="for the --model: how devices prepare recordings (default: windows)")
@click.option("--devices-min", type=int, metavar="Q", help="quorum: fewer updates abandon the round")
@click.option("--goal", type=int, metavar="G", help="updates that close a round (default: all selected devices')")
@click.option("--deadline", type=float, metavar="S", help="seconds a round may take (default: 600)")
@click.option("--max-staleness", type=int, metavar="V", help="let rounds overlap: updates up to V versions old count")
@click.option("--strategy", metavar="NAME", help="fedavg, fedavgm, fedadam, fedyogi or fedadagrad")
@click.option("--weighting", type=click.Choice(["examples", "equal"]), help="how devices' updates are weighed")
@click.option("--server-learning-rate", type=float, metavar="X", help="of the strategy")
@click.option(
    "--codec",
    metavar="NAME",
    help="of updates: int8, topk, lowrank, ..., or auto: each device's choice (default: int4)",
)
@click.option(
    "--downlink",
    metavar="NAME",
    help="of the steps from model to model: none, bfloat16, float16, int8 or int4 (default: int4)",
)
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), help="on the devices")
@click.option("--learning-rate", type=float, metavar="X", help="on the devices")
@click.option("--batch-size", type=int, metavar="N", help="on the devices")
@click.option("--epochs", type=int, metavar="N", help="local epochs a round")
@click.option("--local-steps", type=int, metavar="N", help="local batches a round, instead of epochs")
@click.option("--proximal", type=float, metavar="MU", help="FedProx term")
@click.option("--class-weights", callback=split_weights, metavar="none|balanced|W,W,..", help="of the devices' loss")
@click.option("--evaluate/--no-evaluate", default=None, help="have devices evaluate each model on held-out data")
@click.option("--seed", type=int, metavar="S", help="of the initial model and of all training")
@click.option("--part-size", type=int, metavar="BYTES", help="largest payload of one message (default: 120000)")
@click.option("--state", type=PATH, help="directory of journal and models")
@click.option("--keep-models", type=int, metavar="N", help="newest versions kept on disk for export (default: 20)")
@click.option("--room", type=int, metavar="MB", help="unfinished updates kept on disk at once (default: 1024)")
@click.option("--heartbeat", type=float, metavar="S", help="seconds between status messages (default: 30)")
@click.option("--idle-heartbeat", type=float, metavar="S", help="and while it waits for devices (default: 600)")
@click.option("--fresh", is_flag=True, help="set an earlier run in the state directory aside and start over")
@click.option("--virtual", type=int, metavar="M", help="start M virtual devices, and a broker unless --broker is given")
@click.option(
    "--data", metavar="PATH", help="the virtual devices' recordings: a path or a word such as watch or synthetic-ecg"
)
@click.option("--partition", metavar="RULE", help="auto, owner, even, dirichlet:ALPHA or shards:K (default: auto)")
@click.option(
    "--held-out", metavar="RULE", help="auto, none, the fraction kept for evaluation, or people:NAME,.. (default: auto)"
)
@click.option("--trainers", type=int, metavar="N", help="trainer processes the virtual devices share")
@click.option("--together", type=int, metavar="N", help="virtual devices a trainer trains at once; 1 for one by one")
@click.option("--accelerator", metavar="NAME", help="what virtual devices train on: cpu or cuda (default: cpu)")
@click.option("--budget", metavar="BYTES/day", help="most each virtual device sends and receives, such as 50MB/day")
@click.option("--personal", metavar="METHOD", help="each virtual device's own model: ditto, fine-tune, local-layers")
@click.option("--local-layers", metavar="NAMES", help="with commas between: the layers that are each one's own")
@click.option("--json", "json_lines", is_flag=True, default=None, help="one JSON object a line")
def start(config: Path | None, *, fresh: bool, show_config: bool, **flags: Any) -> int:
    """Run a federation until its rounds are done; Ctrl-C stops it, the same command goes on."""
    settings, origins = read_settings(config, flags)
    if show_config:
        from coordinator.plan_commands import recommended  # noqa: PLC0415 - commands import what they need

        click.echo(table((*origins, *recommended(settings))))
        return 0
    from coordinator.start import start as begin  # noqa: PLC0415 - likewise

    return begin(settings, fresh=fresh)


@cli.command()
@broker_options
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
@click.option("--all", "whole", is_flag=True, help="every device and whole remarks, not the first hundred rows alone")
def status(config: Path | None, *, show_config: bool, as_json: bool, whole: bool, **flags: Any) -> None:
    """Show a federation from the broker's retained messages alone; the coordinator may be off."""
    settings, origins = read_settings(config, flags)
    if show_config:
        click.echo(table(origins))
        return
    from coordinator.status import show  # noqa: PLC0415 - likewise

    show(settings, as_json=as_json, whole=whole)


@cli.command()
@click.argument("target", type=PATH)
@click.option("--state", type=PATH, help="directory of journal and models")
@click.option("--config", type=SETTINGS_PATH, help="settings file (TOML)")
@click.option("--version", "number", type=int, metavar="V", help="of the global model (default: the newest)")
@click.option("--onnx", is_flag=True, help="as an ONNX model, for ONNX Runtime; needs `fedbeat[onnx]`")
@click.option("--plan", "plan_name", metavar="PLAN", help="a bundled one, or a plan's file (default: the run's)")
def export(
    target: Path, config: Path | None, number: int | None, plan_name: str | None, *, onnx: bool, **flags: Any
) -> None:
    """Write a global model to TARGET as safetensors, or as an ONNX model."""
    settings, _ = read_settings(config, flags | {"plan": plan_name})
    from coordinator.export import export_model, export_onnx  # noqa: PLC0415 - likewise

    if onnx:
        click.echo(export_onnx(settings.state, number, settings.plan, target))
    else:
        click.echo(export_model(settings.state, number, target))


@cli.command()
@click.option("--state", type=PATH, help="directory of journal and models")
@click.option("--config", type=SETTINGS_PATH, help="settings file (TOML)")
@click.option("--plan", "plan_name", metavar="PLAN", help="a bundled one, or a plan's file (default: the run's)")
@click.option("--version", "number", type=int, metavar="V", help="of the global model (default: the newest)")
@click.option("--data", metavar="PATH", help="recordings with labels: a path or a word such as watch")
@click.option("--people", default="held-out", show_default=True, metavar="RULE", help="held-out, all, or names")
@click.option("--page", type=PATH, metavar="FILE", help="write a page with each person's figures there (HTML)")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def evaluate(
    config: Path | None,
    plan_name: str | None,
    number: int | None,
    people: str,
    page: Path | None,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Tell how well a global model does on labelled recordings that lie here; needs `fedbeat[edge]` beside it."""
    settings, _ = read_settings(config, flags | {"plan": plan_name})
    from coordinator.assess import assess  # noqa: PLC0415 - likewise

    click.echo(assess(settings, number, people, page, as_json=as_json))


@cli.group()
def plan() -> None:
    """Make and inspect training plans."""


@plan.command("export")
@click.argument("source", metavar="FILE.py:CLASS")
@click.option(
    "--loss", default="cross_entropy", show_default=True, help="cross_entropy, nll, or mse: make an input anew"
)
@click.option("--input", "inputs", multiple=True, required=True, metavar="SHAPE", help="6x150, or name=6x150 each")
@click.option("--classes", required=True, metavar="N|NAMES", help="how many, or their names with commas between")
@click.option("--report", metavar="NAMES", help="classes that macro-F1 is over (default: all)")
@click.option("--recipe", default="windows", show_default=True, help="how devices prepare their recordings")
@click.option("--name", help="of the plan (default: the output file's, without its ending)")
@click.option("--output", "-o", "target", required=True, type=PATH, help="the .plan file")
def plan_export(source: str, target: Path, **options: Any) -> None:
    """Turn an nn.Module into a plan: an operation list and initial parameters."""
    from coordinator.plan_commands import export_plan  # noqa: PLC0415 - likewise

    click.echo(export_plan(source, target, **options))


@plan.command("show")
@click.argument("plan_name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="the plan itself, as devices get it")
def plan_show(plan_name: str, *, as_json: bool) -> None:
    """Print a plan's inputs, operations and parameters."""
    from coordinator.plan_commands import plan_json, show_plan  # noqa: PLC0415 - likewise

    click.echo(plan_json(plan_name) if as_json else show_plan(plan_name), nl=not as_json)


@plan.command("check")
@click.argument("plan_name", metavar="NAME|FILE")
def plan_check(plan_name: str) -> None:
    """Check a plan as a device would: allowed operations, then a dry run under the memory and operation caps."""
    from coordinator.plan_commands import check_plan  # noqa: PLC0415 - likewise

    click.echo(check_plan(plan_name))

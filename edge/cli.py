"""The ``edge`` command. Options and words only: what they start lives beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click
from pydantic import BaseModel

from edge.config import EdgeSettings, FleetSettings
from edge.options import Within, detector_option, personal_options, source_option, trainer_options
from schemas import __version__
from schemas.command_line import EXIT_CODES, GROUP, PATH, SETTINGS_PATH, broker_options, given, run, stopping_on_signals
from schemas.counted import counted
from schemas.errors import DataError, SettingsError
from schemas.output import Output
from schemas.settings import load, table

if TYPE_CHECKING:
    from edge.findings.predict_live import Chosen

S = TypeVar("S", bound=BaseModel)
MAX_PLAN = 2**20  # bytes; no larger one is taken from the broker either


def main() -> None:
    """The console script."""
    run(cli)


@click.group(context_settings=GROUP, epilog=EXIT_CODES)
@click.version_option(__version__)
def cli() -> None:
    """Take part in a federation as a device; the recordings stay here."""


def read_settings(kind: type[S], config: Path | None, flags: dict[str, Any], *, show_config: bool) -> S | None:
    """The settings, or None where they were only to be shown."""
    settings, origins = load(kind, given(flags), config)
    if show_config:
        click.echo(table(origins))
        return None
    return settings


@cli.command("run")
@broker_options
@click.option("--device", metavar="NAME", help="this device's name (default: the host's)")
@click.option("--data", metavar="PATH", help="its recordings: a folder or file")
@click.option(
    "--held-out", metavar="RULE", help="none, the newest fraction kept for evaluation, or people:NAME,.. (default: 0.2)"
)
@click.option("--state", type=PATH, help="directory of the outbox and the newest model")
@click.option("--heartbeat", type=float, metavar="S", help="seconds between status messages (default: 30)")
@click.option("--idle-heartbeat", type=float, metavar="S", help="and while no coordinator has work (default: 600)")
@click.option("--checkpoint", type=float, metavar="S", help="seconds between a training's checkpoints (default: 300)")
@click.option("--outbox-days", type=float, metavar="D", help="days an update waits for its receipt (default: 7)")
@source_option("--record", help="a signal to record meanwhile; `help` lists the kinds")
@click.option("--findings/--no-findings", default=None, help="publish what the model finds meanwhile (default: no)")
@click.option("--budget", metavar="BYTES/day", help="most it sends and receives, such as 50MB/day (default: none)")
@personal_options
@trainer_options
def run_device(config: Path | None, *, show_config: bool, **flags: Any) -> None:
    """Be one device until stopped."""
    settings = read_settings(EdgeSettings, config, flags, show_config=show_config)
    if settings is not None:
        from edge.start import run_device as begin  # noqa: PLC0415 - commands import what they need when they need it

        begin(settings)


@cli.command("evaluate")
@click.option("--plan", "plan_name", required=True, metavar="PLAN", help="a bundled plan, or a plan's file")
@click.option("--model", type=PATH, metavar="FILE", help="what `coordinator export` wrote (default: the plan's start)")
@click.option("--personal", "state", type=PATH, metavar="DIR", help="state directory of `edge run`: the model it uses")
@click.option("--data", required=True, metavar="PATH", help="recordings with labels: a path or a word such as watch")
@click.option(
    "--people", default="held-out", show_default=True, metavar="RULE", help="held-out, all, or names: 100,103"
)
@click.option("--page", type=PATH, metavar="FILE", help="write a page with each person's figures there (HTML)")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def evaluate_model(
    plan_name: str, model: Path | None, state: Path | None, data: str, people: str, page: Path | None, *, as_json: bool
) -> None:
    """Tell how well a model does on labelled recordings, class by class and person by person.

    Beats are counted after ANSI/AAMI EC57. It connects to nothing.
    """
    from edge.findings import assessment  # noqa: PLC0415 - likewise

    click.echo(assessment.show(plan_name, model, data, people, page, as_json=as_json, state=state))


@cli.command("record")
@source_option("--source", "record", help="such as serial:/dev/ttyUSB0?rate=250; `help` lists the kinds")
@click.option("--to", "record_to", type=PATH, metavar="DIR", help="of one person (default: state/edge/recordings)")
@click.option("--segment", "record_segment", type=float, metavar="S", help="seconds of one recording (default: 1800)")
@click.option("--sync", "record_sync", type=float, metavar="S", help="what a power cut costs at most (default: 1)")
@click.option("--keep", "record_keep", metavar="BYTES", help="such as 500MB; the oldest go (default: 2GB)")
@click.option("--days", "record_days", type=float, metavar="D", help="of running that one is kept (default: for good)")
@click.option("--patient", is_flag=True, help="wait for a source that isn't there yet")
@click.option("--json", "as_json", is_flag=True, help="what happens as one JSON object a line")
@broker_options
def record_signal(config: Path | None, *, show_config: bool, patient: bool, as_json: bool, **flags: Any) -> None:
    """Record a live signal as WFDB records, until stopped or until it ends. Nothing leaves this machine."""
    settings = read_settings(EdgeSettings, config, flags, show_config=show_config)
    if settings is not None:
        from edge.record.recording import Recording, recorder  # noqa: PLC0415 - likewise

        recording, output = Recording.of(settings), Output()
        with (
            recorder(recording, lambda told: output.tell(told.as_json() if as_json else told.text)) as at_work,
            stopping_on_signals(at_work.stop),
        ):
            at_work.run(patient=patient)


@cli.command("predict")
@click.option("--plan", "plan_name", default="ecg-beats", show_default=True, metavar="PLAN", help="the model's plan")
@click.option("--model", type=PATH, metavar="FILE", help="what `coordinator export` wrote")
@click.option("--personal", "state", type=PATH, metavar="DIR", help="state directory of `edge run`: the model it uses")
@click.option("--data", metavar="PATH", help="WFDB records: a folder of them, or one's name")
@source_option("--live", help="or a signal as it comes, as for `edge record --source`")
@click.option("--annotate", is_flag=True, help="write RECORD.fb beside each record, with every beat's class")
@click.option("--window", type=Within(10, 86_400), default=60.0, show_default=True, metavar="S", help="live: of a line")
@click.option("--alerts", default="", metavar="RULES", help="live: thresholds, such as v_run=5,s_share=off")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "onnx", "torch"]),
    default="auto",
    show_default=True,
    help="what runs the model; auto is ONNX Runtime where that is installed",
)
@detector_option
@click.option("--json", "as_json", is_flag=True, help="as one JSON object a record; live, an event")
def predict_beats(
    plan_name: str, model: Path | None, state: Path | None, data: str | None, live: str | None, **options: Any
) -> None:
    """Find the beats of an ECG, recorded or as it comes, and say what a model takes each for.

    Nothing leaves this machine, and it is no medical device.
    """
    if model is None and state is None:
        raise SettingsError("no model is given: add --model FILE, or --personal DIR with a device's state directory")
    if (data is None) == (live is None):
        raise SettingsError("say what to look at: --data RECORDINGS, or --live SOURCE")
    if data is not None:
        from edge.findings import predict  # noqa: PLC0415 - likewise

        chosen = {name: options[name] for name in ("annotate", "runtime", "detector")}
        found = predict.examine(plan_name, model, data, state=state, report=partial(click.echo, err=True), **chosen)
        for line in predict.json_lines(found) if options["as_json"] else predict.lines(found):
            click.echo(line)
    elif live is not None:
        from edge.findings.predict_live import Chosen  # noqa: PLC0415 - likewise

        thresholds = _thresholds(options)
        _watch(
            Chosen(live, plan_name, model, state, options["runtime"], options["window"], thresholds),
            as_json=options["as_json"],
        )


def _thresholds(options: dict[str, Any]) -> Mapping[str, float]:
    from edge.findings.alerts import parse  # noqa: PLC0415 - likewise

    if options["annotate"]:
        raise SettingsError("what is live isn't kept, so nothing can be annotated: leave --annotate out, or record it")
    if options["detector"] != "own":
        raise SettingsError("SleepECG needs a whole recording to find beats in: leave --detector out, or record it")
    return parse(options["alerts"])


def _watch(chosen: Chosen, *, as_json: bool) -> None:
    from edge.findings.predict_live import Watch, in_json, in_words  # noqa: PLC0415 - likewise

    output = Output(needed=True)

    def tell(told: dict[str, Any]) -> None:
        for line in in_json(told) if as_json else in_words(told):
            output.tell(line)

    watch = Watch(chosen, tell)
    with stopping_on_signals(watch.stop):
        watch.run()


@cli.command("bench")
@click.option("--plan", default="ecg-beats", show_default=True, metavar="PLAN", help="a bundled plan, or a plan's file")
@click.option("--data", metavar="PATH", help="recordings; noise of the plan's shapes where none are set")
@click.option("--held-out", metavar="RULE", help="as for `edge run`")
@click.option(
    "--examples", type=click.IntRange(1, 10_000_000), metavar="N", help="of a round (default: those there are)"
)
@click.option("--seconds", type=Within(0.1, 3600), default=5.0, show_default=True, help="of training")
@click.option("--state", type=PATH, help="directory whose disk is tried")
@trainer_options
@click.option("--config", type=SETTINGS_PATH, help="settings file (TOML), the one `edge run` has")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def bench_device(
    config: Path | None, *, plan: str, examples: int | None, seconds: float, as_json: bool, **flags: Any
) -> None:
    """Tell what this machine can do: training, codecs, memory, disk, and how long a round would take.

    It runs the programs that `edge run` would, with its settings, and connects to nothing.
    """
    settings, _ = load(EdgeSettings, given(flags), config)
    from edge.bench import bench  # noqa: PLC0415 - likewise
    from edge.bench_report import table as lines  # noqa: PLC0415 - likewise

    report = bench(settings, plan, seconds, examples)
    click.echo(report.model_dump_json(indent=2) if as_json else "\n".join(lines(report)))


@cli.command("fleet")
@broker_options
@click.option("--devices", type=int, metavar="M", help="virtual devices that train (default: 8)")
@click.option(
    "--data", metavar="PATH", help="recordings they share out: a path or a word such as watch or synthetic-ecg"
)
@click.option("--partition", metavar="RULE", help="auto, owner, even, dirichlet:ALPHA or shards:K (default: auto)")
@click.option(
    "--held-out", metavar="RULE", help="auto, none, the fraction kept for evaluation, or people:NAME,.. (default: auto)"
)
@click.option("--state", type=PATH, help="directory of their outboxes and models")
@click.option("--seed", type=int, metavar="S", help="of the partition (default: 0)")
@click.option("--heartbeat", type=float, metavar="S", help="seconds between status messages (default: 30)")
@click.option("--trainers", type=int, metavar="N", help="trainer processes they share (default: one a core, at most 4)")
@click.option(
    "--together", type=int, metavar="N", help="devices a trainer trains at once (default: by the plan's size)"
)
@click.option("--budget", metavar="BYTES/day", help="most each sends and receives, such as 50MB/day (default: none)")
@personal_options
@click.option("--accelerator", metavar="NAME", help="what they train on: cpu or cuda (default: cpu)")
@click.option("--prefix", metavar="NAME", help="what the devices' names begin with (default: virtual)")
@click.option("--until-stdin-closes", is_flag=True, help="end when the parent process does")
def run_fleet(config: Path | None, *, show_config: bool, until_stdin_closes: bool, **flags: Any) -> None:
    """Be many virtual devices in one process: a try-out without a fleet, or a load for a broker."""
    settings = read_settings(FleetSettings, config, flags, show_config=show_config)
    if settings is not None:
        from edge.start import run_fleet as begin  # noqa: PLC0415 - likewise

        begin(settings, until_stdin_closes=until_stdin_closes)


@cli.group()
def data() -> None:
    """Look at recordings, move them, clear them away."""


@data.command("show")
@click.argument("path")
@click.option("--recipe", metavar="NAME", help="how a plan has them prepared, such as ecg-masked (default: guessed)")
@click.option("--json", "as_json", is_flag=True, help="as one JSON object")
def show_data(path: str, recipe: str | None, *, as_json: bool) -> None:
    """Show what would be trained on: windows, counts per class and owner, rejected pieces."""
    from edge.data_show import show  # noqa: PLC0415 - likewise

    click.echo(show(path, recipe, as_json=as_json))


@data.command("list")
@click.argument("directory", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def list_data(directory: Path, *, as_json: bool) -> None:
    """List the records in DIRECTORY: when, how long, how good, and what came before."""
    from edge.record.recordings_show import listing  # noqa: PLC0415 - likewise

    for line in listing(directory, as_json=as_json):
        click.echo(line)


@data.command("import")
@click.argument("records", type=PATH, nargs=-1, required=True)
@click.option("--to", "directory", type=PATH, required=True, metavar="DIR", help="directory of the recordings")
def import_data(records: tuple[Path, ...], directory: Path) -> None:
    """Copy WFDB RECORDS, or folders of them, among the recordings, with their annotations."""
    _copy(records, directory)


@data.command("export")
@click.argument("records", type=PATH, nargs=-1, required=True)
@click.option("--to", "directory", type=PATH, required=True, metavar="DIR", help="such as a USB stick")
def export_data(records: tuple[Path, ...], directory: Path) -> None:
    """Copy whole RECORDS, or folders of them, to another place, with their annotations. They stay here too."""
    _copy(records, directory)


def _copy(records: tuple[Path, ...], directory: Path) -> None:
    from edge.record.recordings_copy import copy_all  # noqa: PLC0415 - likewise

    done = copy_all(records, directory)
    there = f"; {len(done.there)} were there already" if done.there else ""
    click.echo(f"copied {counted(len(done.copied), 'record')} to {directory}{there}")
    if done.left:
        raise DataError("not everything was copied: " + "; ".join(done.left))


@data.command("prune")
@click.argument("directory", type=PATH)
@click.option("--keep", metavar="BYTES", default="none", help="such as 500MB; the oldest segments go")
@click.option("--days", type=Within(0), metavar="D", help="of running, that a segment is kept")
@click.option("--trial", is_flag=True, help="only say what would go")
def prune_data(directory: Path, keep: str, days: float | None, *, trial: bool) -> None:
    """Remove the oldest recorded segments of DIRECTORY. What wasn't recorded here stays."""
    from edge.record.recording import clear  # noqa: PLC0415 - likewise

    for line in clear(directory, keep, days, trial=trial):
        click.echo(line)


@cli.group()
def label() -> None:
    """Label the beats of recordings, so that they can be trained on."""


@label.command("import")
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--to", "directory", type=PATH, required=True, metavar="DIR", help="directory of the recordings")
@click.option("--replace", is_flag=True, help="where a record has others: those stay beside it as RECORD.atr.before")
def import_labels(files: tuple[Path, ...], directory: Path, *, replace: bool) -> None:
    """Bring WFDB annotation FILES, named as their records are, to the records in DIR."""
    from edge.record.label_files import take  # noqa: PLC0415 - likewise

    for line in take(files, directory, replace=replace):
        click.echo(line)


@label.command("beats")
@click.argument("record", type=PATH)
@click.option("--model", type=PATH, metavar="FILE", help="suggest what this model says (default: RECORD.fb, if there)")
@click.option("--plan", "plan_name", default="ecg-beats", show_default=True, metavar="PLAN", help="that model's plan")
@click.option("--again", is_flag=True, help="from the first beat on, labelled or not")
@click.option("--minutes", metavar="MINUTES", help="these alone, as 4,17, or `spread` for five spread over RECORD")
@detector_option
def label_beats(record: Path, model: Path | None, plan_name: str, **options: Any) -> None:
    """Show RECORD's beats one by one in this terminal, and take a key for each: n, s, v, f or q is its class.

    Each label is on disk before the next beat is shown. RECORD is a WFDB record's path without an ending.
    """
    from edge.findings.classifier import BeatClassifier  # noqa: PLC0415 - likewise
    from edge.label.label_view import label as begin  # noqa: PLC0415 - likewise

    classifier = None if model is None else BeatClassifier.of(plan_name, model, "auto")
    Output().tell(begin(record, classifier, **options))


@cli.command("check-plan")
@click.option("--batch-size", type=click.IntRange(1, 65_536), default=32, show_default=True, help="examples in a step")
@click.argument("file", type=click.File("rb"), default="-")
def check_plan(file: BinaryIO, batch_size: int) -> None:
    """Say whether this device would train with the plan in FILE, as `coordinator plan show --json` prints it."""
    from schemas.plan import Plan  # noqa: PLC0415 - likewise
    from schemas.plan_cost import verdict  # noqa: PLC0415 - likewise

    click.echo(verdict(Plan.from_bytes(file.read(MAX_PLAN)), batch_size))

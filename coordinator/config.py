"""The coordinator's settings, and the run they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from coordinator.aggregation import RULES
from coordinator.aggregation.mean import MAX_TOTAL, WHOLE
from schemas import compression, steps
from schemas.errors import SettingsError
from schemas.messages import PlanRef, RunSettings, StrategySettings, TrainSettings
from schemas.settings import LinkSettings

Fleet = Annotated[int, Field(ge=1, le=10_000)]
M = TypeVar("M", bound=BaseModel)


class CoordinatorSettings(LinkSettings):
    """All of ``coordinator start``, from flags, environment and ``run.toml``."""

    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = Field(5, description="training rounds to run")
    plan: str = Field("", description="a bundled plan's name, or a .plan file")
    model: str = Field("", description="FILE.py:Class to export as the plan, instead of --plan")
    input: tuple[str, ...] = Field((), description="the model's inputs, as 6x150 or name=6x150")
    classes: str = Field("", description="the model's classes: a number, or their names with commas")
    recipe: str = Field("windows", description="how devices prepare their recordings for the --model")
    devices_min: Fleet | None = Field(None, description="quorum: fewer updates than this abandon the round")
    goal: Fleet | None = Field(None, description="updates that close the round; all selected devices unless given")
    deadline: Annotated[float, Field(gt=0, le=31_536_000)] = Field(600.0, description="seconds a round may take")
    max_staleness: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="rounds overlap: take updates up to so many versions old, --goal of them a version"
    )
    codec: str = Field("int4", description="how updates are compressed")
    downlink: str = Field("int4", description="how the steps from model to model are compressed; none: no steps")
    evaluate: bool = Field(True, description="have devices evaluate each new model on held-out data")
    strategy: dict[str, Any] = Field(default_factory=dict, description="table: name, weighting, learning_rate, ...")
    train: dict[str, Any] = Field(default_factory=dict, description="table: optimizer, learning_rate, epochs, ...")
    seed: Annotated[int, Field(ge=0, le=2**53)] = Field(0, description="of the initial model and of all training")
    part_size: Annotated[int, Field(ge=1024, le=16 * 2**20)] = Field(120_000, description="bytes in a part")
    max_weight: Annotated[int, Field(ge=1, le=2**20)] = Field(100_000, description="examples one device can count for")
    state: Path = Field(Path("state/coordinator"), description="directory of the journal and the models")
    keep_models: Annotated[int, Field(ge=2, le=1_000_000)] = Field(20, description="newest versions kept on disk")
    room: Annotated[int, Field(ge=1, le=1_000_000)] = Field(1024, description="MB of unfinished updates kept on disk")
    heartbeat: Annotated[float, Field(ge=0.1, le=3600)] = Field(30.0, description="seconds between status messages")
    idle_heartbeat: Annotated[float, Field(ge=0.1, le=3600)] = Field(
        600.0, description="and while it waits for devices, where that is longer"
    )
    virtual: Annotated[int, Field(ge=0, le=10_000)] = Field(0, description="virtual devices to start beside it")
    data: str = Field(
        "", description="recordings of the virtual devices: a path, or a word such as 'watch' or 'synthetic-ecg'"
    )
    partition: str = Field("auto", description="auto, owner, even, dirichlet:ALPHA or shards:K")
    held_out: str = Field("auto", description="auto, none, the fraction kept for evaluation, or people:NAME,..")
    trainers: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="trainer processes they share")
    together: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="virtual devices a trainer trains at once; 1 for one by one"
    )
    accelerator: Literal["cpu", "cuda"] = Field("cpu", description="what virtual devices train on: cpu or cuda")
    budget: str = Field("", description="most each virtual device sends and receives, such as 50MB/day; none if empty")
    personal: Literal["off", "ditto", "fine-tune", "local-layers"] = Field(
        "off", description="a model of its own for each virtual device: off, ditto, fine-tune or local-layers"
    )
    local_layers: str = Field("", description="for local-layers: names of layers, or what they begin with, and commas")
    json_lines: bool = Field(False, description="one JSON object a line instead of a table")

    def quorum(self) -> int:
        """Updates a round needs: as given, else all virtual devices' goal, else one."""
        if self.devices_min is not None:
            return self.devices_min
        return max(1, math.ceil((self.goal or self.virtual) / 2)) if self.virtual else 1


def run_settings(
    settings: CoordinatorSettings, *, run: str, plan: PlanRef, train: TrainSettings, strategy: StrategySettings
) -> RunSettings:
    """The run as devices will read it: the plan's own recommendations with the settings' tables over them.

    Raises ``SettingsError`` naming the entry that is wrong.
    """
    if settings.goal is not None and settings.quorum() > settings.goal:
        raise SettingsError(
            f"--devices-min {settings.quorum()} is above --goal {settings.goal}: a round would close before its quorum"
        )
    if settings.max_staleness is not None and settings.goal is None:
        raise SettingsError("--max-staleness lets rounds overlap, each closing at its goal: add --goal, such as 10")
    if settings.max_staleness is not None and (settings.goal or 0) * settings.max_weight * WHOLE > MAX_TOTAL:
        raise SettingsError(
            f"--goal {settings.goal} updates of up to {settings.max_weight} examples are more than can be averaged "
            f"with --max-staleness: lower --max-weight to {MAX_TOTAL // WHOLE // (settings.goal or 1)}"
        )
    if settings.train.get("epochs") and settings.train.get("local_steps"):
        raise SettingsError("train.epochs and train.local_steps exclude each other: give one of them")
    if settings.codec not in {*compression.NAMES, "auto"}:
        known = ", ".join(compression.NAMES)
        raise SettingsError(
            f"there is no codec {settings.codec!r}: choose one of {known}, or auto, each device's own choice"
        )
    if settings.downlink not in {steps.NONE, *steps.CODECS}:
        known = ", ".join((steps.NONE, *steps.CODECS))
        raise SettingsError(f"there is no downlink {settings.downlink!r}: choose one of {known}")
    if settings.train.get("epochs"):
        train = train.model_copy(update={"local_steps": None})  # the plan's own limit gives way
    strategy = in_scale(strategy, settings.strategy.get("name", strategy.name))
    return RunSettings(
        run=run,
        rounds=settings.rounds,
        plan=plan,
        codec=settings.codec,
        downlink=settings.downlink,
        train=over(train, settings.train, "train"),
        strategy=over(strategy, settings.strategy, "strategy"),
        evaluate=settings.evaluate,
        goal=settings.goal,
        quorum=settings.quorum(),
        deadline_s=settings.deadline,
        max_staleness=settings.max_staleness,
        max_weight=settings.max_weight,
        part_size=settings.part_size,
        seed=settings.seed,
    )


def in_scale(advised: StrategySettings, name: object) -> StrategySettings:
    """``advised`` with its learning rate as the strategy ``name`` needs it; a rate for another would drive it apart."""
    if name == advised.name or name not in RULES:
        return advised
    rate = advised.learning_rate * RULES[str(name)].scale / RULES[advised.name].scale
    return advised.model_copy(update={"learning_rate": rate})


def over(base: M, entries: Mapping[str, Any], table: str) -> M:
    """``base`` with ``entries`` over its fields; ``SettingsError`` for unknown or wrong ones."""
    known = type(base).model_fields
    if unknown := sorted(set(entries) - set(known)):
        raise SettingsError(f"unknown setting {table}.{unknown[0]}; there are: {', '.join(known)}")
    try:
        return type(base).model_validate({**base.model_dump(), **entries})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise SettingsError(f"{table}.{name} = {entries.get(name)!r}: {first['msg'].lower()}") from None

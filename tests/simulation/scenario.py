"""What one seed means: the run, the fleet, and how much goes wrong. All of it is drawn before anything starts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

import numpy as np

from coordinator.inbox import WINDOW
from schemas.link.memory import Faults
from schemas.messages import PlanRef, RunSettings, StrategySettings
from schemas.parameters import Parameters
from schemas.parts import LARGE, describe
from schemas.plan import Plan
from schemas.topics import Topics

TOPICS: Final = Topics("sim")
RUN: Final = "run-1"
SECOND_RUN: Final = "run-2"
CALM: Final = Faults()

# How often each kind of mishap comes, in times per 100 virtual seconds, where a seed has it at its worst.
MISHAPS: Final = {
    "device crash": 6.0,
    "device power cut": 4.0,
    "coordinator crash": 3.0,
    "coordinator power cut": 2.0,
    "coordinator stop": 0.5,
    "broker restart": 1.0,
    "broker restart without memory": 1.0,
    "cut": 4.0,
    "partition": 1.5,
    "half-open": 1.5,
    "full disk of a device": 2.0,
    "full disk of the coordinator": 0.7,
    "wall clock jump": 3.0,
    "garbage": 8.0,
    "replay": 8.0,
}


def plan(width: int) -> Plan:
    """A plan of ``3 * width`` parameters; nobody ever runs it."""
    return Plan.build(
        name="tiny",
        data="windows",
        inputs=({"name": "x", "shape": (2,)},),
        classes=("calm", "brisk"),
        report=("calm", "brisk"),
        parameters=(
            {"name": "weight", "shape": (width, 2), "init": {"kind": "uniform", "bound": 0.5}},
            {"name": "bias", "shape": (width,), "init": {"kind": "constant", "value": 0.0}},
        ),
        operations=(
            {"out": "logits", "op": "linear", "args": ("%x", "%weight", "%bias")},
            {"out": "loss", "op": "mean.dim", "args": ("%logits",)},
        ),
        loss="loss",
        logits="logits",
    )


DOWNLINKS: Final = ("none", "int4", "int8", "bfloat16")
OVERLAPPING: Final = 0.3  # share of the federations whose rounds overlap
COMMANDED: Final = 0.5  # of those whose operator pauses and evicts devices
CONTESTED: Final = 0.3  # of those in which a second coordinator is started
STARTED: Final = 8.0  # times per 100 virtual seconds that it is, at most
COMMANDS: Final = 15.0  # of them per 100 virtual seconds, at most

PLANS: Final = {width: plan(width) for width in (6, 500)}  # an update of one part, and of several
PLAN_BYTES: Final = {width: plan.to_bytes() for width, plan in PLANS.items()}


@dataclass(frozen=True, slots=True)
class Member:
    """One device of the fleet."""

    name: str
    kind: str  # "honest", "slow" or what it lies about
    examples: int
    held_out: int
    training_s: float  # the longest it trains
    arrives_at: float  # virtual seconds after the start


@dataclass(frozen=True, slots=True)
class Scenario:
    """One seed, drawn."""

    seed: int
    width: int
    settings: RunSettings
    members: tuple[Member, ...]
    faults: Faults  # of the link, until ``calm_at``
    mishaps: dict[str, float]  # per virtual second, until ``calm_at``
    calm_at: float
    busy_s: float  # the longest the coordinator takes for a turn
    second: float = 0.0  # how often a second coordinator is started, per virtual second
    large: int = LARGE  # bytes above which an update comes when it is asked for
    window: int = WINDOW  # bytes of such ones at once

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return PLANS[self.width]

    @property
    def second_settings(self) -> RunSettings:
        """Those of a second coordinator: a run of its own."""
        return self.settings.model_copy(update={"run": SECOND_RUN})

    def model(self) -> Parameters:
        """Version 0."""
        manifest = self.plan.manifest()
        values = np.random.default_rng(self.seed).normal(size=manifest.size)
        return Parameters(manifest, values.astype(np.float32))


def draw(seed: int, rounds: int = 24) -> Scenario:
    """The scenario of ``seed``, of at most ``rounds`` rounds."""
    rng = random.Random(f"scenario/{seed}")  # noqa: S311  - no secret
    width = rng.choice((6, 6, 6, 500))
    honest = rng.randint(2, 5)
    quorum = rng.choice((1, 2, 2, honest))  # with all of them needed, many an attempt is abandoned
    goal = rng.choice((None, None, *range(quorum, honest + 1)))
    deadline_s = rng.choice((15.0, 30.0, 60.0))
    wild = rng.choice((0.0, 0.3, 1.0, 1.0))
    settings = RunSettings(
        run=RUN,
        rounds=rounds,
        plan=PlanRef(name="tiny", blob=describe(PLAN_BYTES[width], 1024)),
        codec=rng.choice(("float32", "topk10", "int8", "float16")),
        strategy=StrategySettings(
            name=rng.choice(("fedavg", "fedavg", "fedavgm")),
            weighting=rng.choice(("examples", "equal")),
            learning_rate=rng.choice((1.0, 0.5)),
        ),
        evaluate=rng.random() < 0.5,
        goal=goal,
        quorum=quorum,
        deadline_s=deadline_s,
        part_size=1024,
        seed=seed,
        downlink=random.Random(f"downlink/{seed}").choice(DOWNLINKS),  # noqa: S311  - apart: the rest stays as it was
    )
    later = random.Random(f"scenario/{seed}/later")  # noqa: S311  - apart, so that the rest of a seed stays as it was
    settings = _overlapping(settings, honest, later)
    return Scenario(
        seed=seed,
        width=width,
        settings=settings,
        members=_members(rng, honest, deadline_s),
        faults=_link(rng, wild),
        mishaps={
            **{name: often * wild * rng.choice((0.0, 0.5, 1.0)) / 100 for name, often in MISHAPS.items()},
            "command": COMMANDS * wild * later.random() / 100 if later.random() < COMMANDED else 0.0,
        },
        calm_at=rng.uniform(0.3, 1.0) * rounds * 12.0,
        busy_s=rng.choice((0.0, 0.0, 0.2, 2.0)),
        second=STARTED * wild * later.random() / 100 if later.random() < CONTESTED else 0.0,
        **_pulled(random.Random(f"large/{seed}")),  # noqa: S311  - apart, likewise
    )


def _overlapping(settings: RunSettings, honest: int, rng: random.Random) -> RunSettings:
    """In some federations rounds overlap, which takes a goal."""
    if rng.random() >= OVERLAPPING:
        return settings
    goal = settings.goal or rng.randint(settings.quorum, honest)
    return settings.model_copy(update={"goal": goal, "max_staleness": rng.randint(1, 3)})


def _pulled(rng: random.Random) -> dict[str, int]:
    """In half of the federations updates of several parts are large ones, few of which may come at once."""
    return {"large": 600, "window": rng.choice((1, 3000, 100_000))} if rng.random() < 1 / 2 else {}


def _members(rng: random.Random, honest: int, deadline_s: float) -> tuple[Member, ...]:
    kinds = ["honest"] * honest + rng.choices(
        ("slow", "wrong nonce", "other's name", "not finite", "equivocating", "silent"), k=rng.randint(0, 2)
    )
    return tuple(
        Member(
            name=f"dev-{number}",
            kind=kind,
            examples=rng.randint(1, 500),
            held_out=rng.choice((0, 0, 7)),
            training_s=2 * deadline_s if kind == "slow" else rng.choice((0.1, 2.0, 0.4 * deadline_s)),
            arrives_at=rng.choice((0.0, 0.0, 0.0, 20.0, 60.0)) * rng.random(),
        )
        for number, kind in enumerate(kinds)
    )


def _link(rng: random.Random, wild: float) -> Faults:
    if not wild:
        return CALM
    return Faults(
        loss=rng.choice((0.0, 0.01, 0.1)) * wild,
        duplicate=rng.choice((0.0, 0.1, 0.5)) * wild,
        delay_s=rng.choice((0.0, 0.05, 2.0)),
        reorder=rng.random() < 0.5,
        uplink_s=rng.choice((0.0, 0.05, 2.0)),
    )

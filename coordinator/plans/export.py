"""Write the bundled ``.plan`` files from their modules: ``python -m coordinator.plans.export``. Needs torch.

To add a plan, write its module beside the others and its line here, and run this.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.plan_export import export
from coordinator.plan_file import BUNDLED, ENDING, PlanFile, write
from coordinator.plans.digits import Digits
from coordinator.plans.ecg_beats import EcgBeats
from coordinator.plans.watch import Watch
from schemas.messages import StrategySettings, TrainSettings


def ecg_beats() -> PlanFile:
    """Class weights and equal devices, since S and V beats are rare and sit in a few patients."""
    return export(
        EcgBeats(),
        "ecg-beats",
        {"signal": (1, 128), "rr": (6,)},
        classes=("N", "S", "V", "F", "Q"),
        report=("N", "S", "V"),
        data="ecg-beats",
        seeded=True,
        train=TrainSettings(learning_rate=0.02, momentum=0.9, class_weights="balanced"),
        strategy=StrategySettings(weighting="equal"),
    )


def watch() -> PlanFile:
    """The names are the recordings' own: pendulum, abduction, forward elevation, rotations, trapezius, row."""
    return export(
        Watch(),
        "watch",
        {"window": (6, 150)},
        classes=("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"),
        data="watch",
        seeded=True,
        train=TrainSettings(learning_rate=0.05, momentum=0.9),
    )


def digits() -> PlanFile:
    """Learns at the classic example's rate."""
    return export(
        Digits(),
        "digits",
        {"image": (1, 28, 28)},
        classes=tuple("0123456789"),
        data="digits",
        seeded=True,
        train=TrainSettings(learning_rate=0.01, momentum=0.9),
    )


PLANS: dict[str, Callable[[], PlanFile]] = {"ecg-beats": ecg_beats, "watch": watch, "digits": digits}


def main() -> None:
    """Write all of them."""
    for name, build in PLANS.items():
        write(build(), BUNDLED / f"{name}{ENDING}")


if __name__ == "__main__":
    main()

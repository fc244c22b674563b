"""Write the bundled ``.plan`` files from their modules: ``python -m coordinator.plans.export``. Needs torch.

To add a plan, write its module beside the others and its line here, and run this.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.plan_export import export
from coordinator.plans.digits import Digits
from coordinator.plans.ecg_beats import EcgBeats
from coordinator.plans.ecg_masked import EcgMasked
from coordinator.plans.watch import Watch
from schemas.messages import StrategySettings, TrainSettings
from schemas.plan_file import BUNDLED, ENDING, PlanFile, write


def ecg_beats(name: str = "ecg-beats") -> PlanFile:
    """Class weights and equal devices, since S and V beats are rare and sit in a few patients.

    Weights balanced on each device would differ by hundreds between patients. The settings were chosen on DS1 alone, by
    patients held out in turn (``benchmarks/ecg_cross_validation.py``).
    """
    return export(
        EcgBeats(),
        name,
        {"rhythm": (12,), "shape": (19,)},
        classes=("N", "S", "V", "F", "Q"),
        report=("N", "S", "V"),
        data=name,
        seeded=True,
        train=TrainSettings(
            learning_rate=0.01, momentum=0.9, weight_decay=0.001, class_weights=(1.0, 5.0, 2.0, 2.0, 1.0)
        ),
        strategy=StrategySettings(weighting="equal"),
    )


def ecg_weak() -> PlanFile:
    """Only the labels differ from ``ecg-beats``: a rule gives them. The models of both serve either plan."""
    return ecg_beats("ecg-weak")


def ecg_masked() -> PlanFile:
    """Equal devices, so that the people who recorded most don't decide what a beat is."""
    return export(
        EcgMasked(),
        "ecg-masked",
        {"window": (128,), "usual": (128,), "mask": (128,)},
        loss="mse",
        classes=("beat",),
        data="ecg-masked",
        seeded=True,
        train=TrainSettings(optimizer="adam", learning_rate=0.002, batch_size=64),
        strategy=StrategySettings(weighting="equal"),
    )


def watch() -> PlanFile:
    """The names are the recordings' own: pendulum, abduction, forward elevation, rotations, trapezius, row.

    People are few and their windows fewer, so that five epochs a round are cheap and learn faster.
    """
    return export(
        Watch(),
        "watch",
        {"window": (6, 150)},
        classes=("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"),
        data="watch",
        seeded=True,
        train=TrainSettings(optimizer="adam", learning_rate=0.003, epochs=5),
    )


def digits() -> PlanFile:
    """A rate that suits MNIST's 60,000 images as well as scikit-learn's 1797."""
    return export(
        Digits(),
        "digits",
        {"image": (1, 28, 28)},
        classes=tuple("0123456789"),
        data="digits",
        seeded=True,
        train=TrainSettings(learning_rate=0.03, momentum=0.9),
    )


PLANS: dict[str, Callable[[], PlanFile]] = {
    "ecg-beats": ecg_beats,
    "ecg-weak": ecg_weak,
    "ecg-masked": ecg_masked,
    "watch": watch,
    "digits": digits,
}


def main() -> None:
    """Write all of them."""
    for name, build in PLANS.items():
        write(build(), BUNDLED / f"{name}{ENDING}")


if __name__ == "__main__":
    main()

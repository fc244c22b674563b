"""How far ahead training begins whose update carries what the last one left out: ``edge.training.feedback.AHEAD``.

    python benchmarks/ahead.py --data ../shared/data/mitdb --codec topk --ahead 0 0.1 0.2 --seeds 0 1 2
    python benchmarks/ahead.py --plan watch --codec topk --ahead 0 0.1 0.2 --rounds 5 10 15 --seeds 0

Federated in this process, a person a device, all devices in every round, on people held out: the five folds of
``ecg_cross_validation.py`` (DS1; DS2 is not looked at), or with ``--plan watch`` those of ``motion.py``. ``--codec
float32`` leaves nothing out. All folds' people are scored together after each number of rounds asked for: macro-F1, and
the mean loss of an example. Some minutes a row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from broker import machine
from ecg_beats import spread
from ecg_cross_validation import FOLDS
from motion import folds
from people import by_person, score, versions

from edge.dataset import Dataset, concatenate
from edge.training import feedback
from edge.training.evaluation import evaluate
from edge.training.loop import Trained, Training
from edge.training.stacked_training import MAX_WIDTH, Stack, train_stacked
from schemas import compression
from schemas.messages import Counts
from schemas.parameters import Parameters
from schemas.plan_file import PlanFile, find

Fold = tuple[Sequence[Dataset], Dataset]  # who trains, and the examples of those held out


def together(
    file: PlanFile, starts: Sequence[Parameters], devices: Sequence[Dataset], rngs: Sequence[np.random.Generator]
) -> list[Trained]:
    """What each device makes of where it starts, several at a time."""
    settings, places = file.plan.train, {}
    found: dict[int, Trained] = {}
    stack = Stack(file.plan, settings.batch_size, "cpu")

    def begun() -> Iterator[Training]:
        for place, (start, data, rng) in enumerate(zip(starts, devices, rngs, strict=True)):
            training = Training(start, data, file.plan, settings, rng, stack.layout)
            places[training] = place
            yield training

    def done(training: Training, outcome: Trained | Exception) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        found[places.pop(training)] = outcome

    train_stacked(begun(), stack, MAX_WIDTH, done)
    return [found[place] for place in range(len(devices))]


class Residuals:
    """What the devices' updates have left out so far, and how they carry it."""

    def __init__(self, codec: str, ahead: float, devices: int) -> None:
        self._codec, self._ahead, self._left = codec, ahead, [b""] * devices

    def begin(self, model: Parameters, index: int) -> Parameters:
        """Where a device trains from."""
        return feedback.start(model, self._left[index], self._ahead)

    def heard(self, delta: Parameters, rng: np.random.Generator, index: int) -> Parameters:
        """Its update, decoded."""
        encoded = feedback.encode(self._codec, delta, self._left[index], rng)
        self._left[index] = encoded.residual
        return compression.decode(encoded.payload, delta.manifest)


def dealt(people: Mapping[str, Dataset], plan: str) -> list[Fold]:
    """The folds of a plan's people."""
    held_out = folds(people) if plan == "watch" else FOLDS
    inside = {name for fold in held_out for name in fold}
    return [
        (
            [people[name] for name in people if name in inside and name not in fold],
            concatenate([people[name] for name in fold]),
        )
        for fold in held_out
    ]


def scores(
    file: PlanFile, parts: Sequence[Fold], given: argparse.Namespace, seed: int, ahead: float
) -> dict[int, tuple[float, float]]:
    """Macro-F1 and mean loss of all that were held out, by the number of rounds."""
    said: dict[int, list[Counts]] = {number: [] for number in given.rounds}
    for devices, others in parts:
        kept, rounds = Residuals(given.codec, ahead, len(devices)), max(given.rounds)
        models = versions(file, devices, rounds, seed, kept.heard, begin=kept.begin, train_all=together)
        for number, model in enumerate(models, 1):
            if number in said:
                said[number].append(evaluate(model, others, file.plan))
    found = {}
    for number, counts in said.items():
        table = np.sum([each.confusion for each in counts], axis=0)
        loss = sum(each.loss_sum for each in counts) / sum(each.examples for each in counts)
        found[number] = score(table, file.plan).macro_f1 or 0.0, loss
    return found


def main() -> None:
    """A row for each share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", choices=("ecg-beats", "watch"), default="ecg-beats")
    parser.add_argument("--data", default="watch", help="the MIT-BIH records, for ecg-beats")
    parser.add_argument("--codec", default="topk")
    parser.add_argument("--ahead", type=float, nargs="*", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--rounds", type=int, nargs="*", default=[15, 25])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    given = parser.parse_args()
    file = find(given.plan)
    parts = dealt(by_person(given.data, file.plan), given.plan)
    print(f"# {machine()}; {given.plan}, {len(parts)} folds, seeds {given.seeds}")
    print(f"| codec | ahead | {' | '.join(f'macro-F1, {number} rounds | loss' for number in given.rounds)} | CPU s |")
    print(f"|---|---|{'---|---|' * len(given.rounds)}---|")
    for ahead in given.ahead:
        began, found = time.process_time(), [scores(file, parts, given, seed, ahead) for seed in given.seeds]
        cells = [
            f"{spread((each[number][0] for each in found), 3)} | {spread((each[number][1] for each in found), 4)}"
            for number in given.rounds
        ]
        print(f"| {given.codec} | {ahead:g} | {' | '.join(cells)} | {time.process_time() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()

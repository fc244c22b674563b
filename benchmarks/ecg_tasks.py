"""What a fleet learns with annotations, with labels by rule and with none: DS1 trains, DS2 tests.

    python benchmarks/ecg_tasks.py --data ../shared/data/mitdb --seeds 0 1 2

For each seed and plan the command of the README: 22 virtual devices, one patient each. ``ecg-beats`` and ``ecg-weak``
train the same network and are judged alike, beat by beat against DS2's annotations, beside the rule that labels for
``ecg-weak``. ``ecg-masked`` gives scores, no classes: it is judged by how they rank V above N, in each DS2 patient
with ``FEW`` of both and over all of them, as area under the ROC curve (AUROC) and average precision (AP); beside it
the distance from the usual beat, scored likewise without a model, and the rule's own measure of strangeness. There
beats are those that the device's detector finds within 150 ms of an annotation. Prints tables; one JSON object a run
goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import wfdb
from broker import machine
from ecg_beats import measure
from ecg_patients import confusion, figures, interval, patients, ruled, score
from numpy.typing import NDArray
from people import Confusion
from sklearn.metrics import average_precision_score, roc_auc_score

from edge.beats.beat_features import SHAPE
from edge.beats.beat_stream import Described, beats_of
from edge.beats.ecg import AAMI_OF_SYMBOL
from edge.beats.masked_beats import UNUSUAL, scores
from edge.beats.weak_labels import Rule
from edge.findings.anomaly import score_beats
from edge.sources import RECIPES, open_source, read
from edge.sources.wfdb_records import DS1, DS2, read_lead
from schemas.parameters import Parameters
from schemas.plan_file import find

NEAR_S = 0.15  # from an annotation
FEW = 10  # V and N beats that a patient's own figures need
Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]  # of beats that are N or V: which are V


def annotated(data: Path, name: str) -> tuple[Described, NDArray[np.str_]]:
    """A record's beats as its device finds them, and the class of each (n,), empty where no annotation is near."""
    signal, rate = read_lead(data / name)
    beats = beats_of(signal, rate)
    marks = wfdb.rdann(str(data / name), "atr")
    is_beat = np.isin(marks.symbol, list(AAMI_OF_SYMBOL))
    places, classes = marks.sample[is_beat], np.array([AAMI_OF_SYMBOL[s] for s in np.array(marks.symbol)[is_beat]])
    after = np.clip(np.searchsorted(places, beats.peaks), 1, len(places) - 1)
    nearest = after - (beats.peaks - places[after - 1] < places[after] - beats.peaks)
    near = np.abs(places[nearest] - beats.peaks) <= NEAR_S * rate
    return beats, np.where(near, classes[nearest], "")


def ranking(truth: Mapping[str, Truth], said: Mapping[str, Scores]) -> dict[str, float]:
    """How scores rank V above N: pooled, and over the patients with ``FEW`` of both."""
    own = [
        (roc_auc_score(truth[name], said[name]), average_precision_score(truth[name], said[name]))
        for name in truth
        if FEW <= truth[name].sum() <= len(truth[name]) - FEW
    ]
    everybody = np.concatenate(list(truth.values())), np.concatenate([said[name] for name in truth])
    aurocs, precisions = zip(*own, strict=True)
    return {
        "AUROC": float(roc_auc_score(*everybody)),
        "AP": float(average_precision_score(*everybody)),
        "patients": len(own),
        "median AUROC": float(np.median(aurocs)),
        "lowest AUROC": float(min(aurocs)),
        "median AP": float(np.median(precisions)),
    }


def classes_row(way: str, tables: Mapping[str, Confusion]) -> str:
    """A way of labelling as a line of the table, with intervals over patients."""
    values = figures(score(np.sum(list(tables.values()), axis=0)))
    bounds = zip(values, *interval(tables), strict=True)
    return f"| {way} | {' | '.join(f'{v:.3f} ({low:.2f}-{high:.2f})' for v, low, high in bounds)} |"


def ranking_row(way: str, told: Mapping[str, float]) -> str:
    """A way of scoring as a line of the table."""
    kept = ("AUROC", "AP", "median AUROC", "lowest AUROC", "median AP")
    return f"| {way} | {' | '.join(f'{told[name]:.3f}' for name in kept)} |"


def main() -> None:
    """Run the seeds asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the MIT-BIH records")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--masked-rounds", type=int, default=10)
    given = parser.parse_args()
    print(f"# {machine()}; {given.rounds} rounds, of ecg-masked {given.masked_rounds}")
    models: dict[str, dict[int, Parameters]] = {"ecg-beats": {}, "ecg-weak": {}, "ecg-masked": {}}
    held_out: list[float] = []
    for plan, made in models.items():
        for seed in given.seeds:
            rounds = given.masked_rounds if plan == "ecg-masked" else given.rounds
            run = measure(given.data, seed, rounds, models=made, plan=plan)
            print(json.dumps({"plan": plan, **run}), file=sys.stderr, flush=True)
            if plan == "ecg-masked":
                held_out.append(run["metrics"]["loss"])
    people = {name: beats for name, beats in patients(given.data).items() if name in DS2}
    print("\n| plan | accuracy | macro-F1 (N, S, V) | N F1 | S F1 | V F1 |\n|---|---|---|---|---|---|")
    for plan in ("ecg-beats", "ecg-weak"):
        for seed, model in models[plan].items():
            print(classes_row(f"{plan}, seed {seed}", {name: confusion(model, of) for name, of in people.items()}))
    print(classes_row("the rule alone", {name: ruled(Rule(), of) for name, of in people.items()}), flush=True)
    losses = [f"{loss:.5f}" for loss in held_out]
    print(f"\nDS2's loss of ecg-masked: {', '.join(losses)}; of always the usual beat {usual_loss(given.data):.5f}")
    for group, names in (("DS2", DS2), ("DS1", DS1)):
        rank(given.data, group, names, models["ecg-masked"])


def usual_loss(data: Path) -> float:
    """What DS2's masked beats cost who fills in the person's usual beat."""
    source = open_source(str(data), "ecg-masked")
    window, usual, mask = read(source, source.tested, RECIPES["ecg-masked"].form).dataset.inputs
    return float((((window - usual) * mask) ** 2).mean())


def rank(data: Path, group: str, names: tuple[str, ...], models: Mapping[int, Parameters]) -> None:
    """The table of what ranks a group's V above its N."""
    plan = find("ecg-masked").plan
    found = {name: annotated(data, name) for name in names}
    judged = {name: np.isin(classes, ["N", "V"]) for name, (_, classes) in found.items()}
    truth = {name: found[name][1][judged[name]] == "V" for name in names}
    beats = {name: found[name][0] for name in names}
    strange = list(SHAPE).index("qrs rel")
    distances = {name: scores(((of.waves - of.usual) ** 2).mean(axis=1, keepdims=True)) for name, of in beats.items()}
    ways = {
        **{
            f"ecg-masked, seed {seed}": {name: score_beats(model, plan, of) for name, of in beats.items()}
            for seed, model in models.items()
        },
        "distance from the usual beat": distances,
        "the rule's strangeness": {name: of.shape[:, strange].astype(np.float64) for name, of in beats.items()},
    }
    print(f"\n| {group}, V above N | AUROC | AP | median AUROC | lowest AUROC | median AP |\n|---|---|---|---|---|---|")
    for way, said in ways.items():
        told = ranking(truth, {name: values[judged[name]] for name, values in said.items()})
        print(ranking_row(way, told), flush=True)
        if way.startswith("ecg-masked"):
            print(json.dumps({"group": group, "way": way, **told, **flagged(truth, said, judged)}), file=sys.stderr)


def flagged(
    truth: Mapping[str, Truth], said: Mapping[str, Scores], judged: Mapping[str, Truth]
) -> dict[str, float | None]:
    """Of scores over ``UNUSUAL``, as ``edge predict`` counts them: the shares of V and of N that have them."""
    over = {name: said[name][judged[name]] > UNUSUAL for name in truth}
    all_true, all_over = (np.concatenate(list(each.values())) for each in (truth, over))
    return {"V over": float(all_over[all_true].mean()), "N over": float(all_over[~all_true].mean())}


if __name__ == "__main__":
    main()

"""Recordings on this device's disk become examples. One table of recipes and their readers; one file for each reader.

A recipe names what a plan's examples look like and how they are made; a path names where the recordings are, or is the
word of a bundled source. ``prepare`` is what a device calls; it reads no more people than the device owns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.dataset import Dataset, empty_like
from edge.dataspec import EVALUATOR, DataSpec, parse_held_out, parse_partition, parse_people
from edge.partitioning import deal_owners, partition
from edge.sources import digits, ecg_beats, ecg_unlabelled, idx, synthetic, watch, wfdb_records, windows
from edge.sources.source import Form, Reader, Reading, Source, left_out
from schemas.errors import DataError, SettingsError

HELD_OUT = 0.2  # of the owners, or of the examples where owners are few
SHOWN_OWNERS = 20  # in a sentence
ENOUGH_OWNERS = 5  # from which whole people are held out rather than everybody's newest examples


@dataclass(frozen=True, slots=True)
class Recipe:
    """The form of a recipe's examples, and the readers that can make them, tried in order."""

    form: Form
    readers: tuple[Reader, ...]


RECIPES: dict[str, Recipe] = {
    "ecg-beats": Recipe(ecg_beats.FORM, (wfdb_records.READER, synthetic.READER, windows.READER)),
    "ecg-weak": Recipe(ecg_unlabelled.WEAK, (wfdb_records.READER, synthetic.READER, windows.READER)),
    "ecg-masked": Recipe(ecg_unlabelled.MASKED, (wfdb_records.READER, synthetic.READER, windows.READER)),
    "watch": Recipe(watch.FORM, (watch.READER, windows.READER)),
    "digits": Recipe(digits.FORM, (digits.READER, idx.READER, windows.READER)),
    "windows": Recipe(windows.FORM, (windows.READER,)),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one device works with: examples to train on, examples to evaluate on, and what its owner should know."""

    train: Dataset
    held_out: Dataset
    notes: tuple[str, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason -> pieces


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Whatever the disk refuses of ``path`` in here becomes a ``DataError``."""
    try:
        yield
    except OSError as error:
        text = f"can't read {error.filename or path}: {error.strerror or error}"
        raise DataError(f"{text}; see to its permissions, and to the disk") from error


def open_source(path: str, recipe: str) -> Source:
    """Find what is at ``path``. Raises ``DataError``, or ``SettingsError`` for an unknown recipe."""
    if recipe not in RECIPES:
        raise SettingsError(f"recipe {recipe!r} is not known: use one of {', '.join(RECIPES)}")
    known = RECIPES[recipe]
    readable = "; ".join(reader.what for reader in known.readers)
    with reading(path):
        for reader in known.readers:
            if reader.recognises(path):
                return reader.open(path, known.form)
        place = Path(path)
        if not place.exists():
            raise DataError(f"there is nothing at {path}: give the folder or file of the recordings ({readable})")
        if place.is_dir() and not any(place.iterdir()):
            raise DataError(f"the folder {path} is empty: put recordings there ({readable})")
    raise DataError(f"{path} holds nothing that recipe {recipe!r} can read; it reads: {readable}")


def read(source: Source, owners: Sequence[str], form: Form) -> Reading:
    """Read some owners' recordings and check that they have the recipe's form and are not all rejected."""
    with reading(source.kind):
        found = source.read(owners)
    form.check(found.dataset, source.kind)
    if not len(found.dataset):
        reasons = "; ".join(left_out(reason, count) for reason, count in found.rejected.items()) or "no recordings"
        raise DataError(f"{source.kind}: nothing usable of {', '.join(owners)} ({reasons})")
    return found


Read = Callable[[Source, Sequence[str], Form], Reading]


def load(path: str, recipe: str) -> Dataset:
    """Every example at ``path``, those that are kept for testing included. Raises ``DataError``."""
    source = open_source(path, recipe)
    return read(source, source.owners, RECIPES[recipe].form).dataset


def held_out_owners(source: Source) -> tuple[str, ...]:
    """The people whom ``held_out="auto"`` keeps from training; none where there are too few people for that.

    The field's own split where there is one and both its sides are here; else the last fifth of five or more owners.
    """
    if source.tested and set(source.tested) < set(source.owners):
        return source.tested
    if source.tested or len(source.owners) < ENOUGH_OWNERS:
        return ()
    return source.owners[-int(len(source.owners) * HELD_OUT) :]


def prepare(spec: DataSpec, recipe: str, read: Read = read) -> Prepared:
    """The examples of one device. ``read`` may remember what it has read, for devices that share recordings.

    With ``held_out="auto"`` and several devices, what is held out is the evaluator's (index -1) alone; a lone device
    (``devices=1, index=0``) keeps it and evaluates itself. A fraction is held out by each device of its own newest
    examples, and leaves an evaluator nothing. People whom the rule names are held out wherever they are: a lone
    device that has nobody else evaluates only. Raises ``DataError``, ``SettingsError``.
    """
    source = open_source(spec.path, recipe)
    form = RECIPES[recipe].form
    fraction = parse_held_out(spec.held_out)
    named = parse_people(spec.held_out)
    if named:
        people = _named_here(source, named, spec)
        found = _by_people(source, spec, form, people, read)
        absent = ", ".join(name for name in named if name not in people)
        note = (f"held_out names {absent}, of whom nothing is here",) if absent else ()
        return replace(found, notes=(*found.notes, *note))
    people = held_out_owners(source) if fraction is None else ()
    if people:
        return _by_people(source, spec, form, people, read)
    if fraction is None and spec.devices > 1:
        return _by_examples(source, spec, form, read)
    if spec.index == EVALUATOR:
        raise DataError(f"held_out {spec.held_out!r} leaves an evaluator nothing here: start none")
    own = _own_part(source, spec, form, source.owners, read)
    train, held_out = own.dataset.split(HELD_OUT if fraction is None else fraction)
    return _prepared(source, train, held_out, own.rejected)


def _named_here(source: Source, named: tuple[str, ...], spec: DataSpec) -> tuple[str, ...]:
    """Those of ``named`` who are here: of a shared folder all must be, of one device's own perhaps none.

    Raises ``DataError``, and ``SettingsError`` where a name is somebody's here but for its case, or ``_`` for ``-``.
    """
    missing = [name for name in named if name not in source.owners]
    others = {_folded(owner): owner for owner in source.owners if owner not in named}
    for name in missing:
        if _folded(name) in others:
            raise SettingsError(
                f"held_out names {name}, of whom nothing is here: is it {others[_folded(name)]}? Write it as it is here"
            )
    if missing and spec.devices > 1:
        there = ", ".join(source.owners[:SHOWN_OWNERS])
        raise DataError(f"held_out names {', '.join(missing)}, of whom nothing is here: choose among {there}")
    if set(named) >= set(source.owners) and spec.devices > 1:
        raise DataError("held_out names everybody who is here: leave somebody to train on")
    return tuple(name for name in source.owners if name in named)


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")


def _by_people(source: Source, spec: DataSpec, form: Form, people: tuple[str, ...], read: Read) -> Prepared:
    note = f"held-out owners: {', '.join(people)}"
    if spec.index == EVALUATOR:
        tested = read(source, people, form)
        return _prepared(source, empty_like(tested.dataset), tested.dataset, tested.rejected, note)
    others = tuple(owner for owner in source.owners if owner not in people)
    if not others:
        tested = read(source, people, form)
        return _prepared(source, empty_like(tested.dataset), tested.dataset, tested.rejected, note)
    own = _own_part(source, spec, form, others, read)
    if spec.devices > 1 or not people:
        return _prepared(source, own.dataset, empty_like(own.dataset), own.rejected)
    tested = read(source, people, form)
    return _prepared(source, own.dataset, tested.dataset, Counter(own.rejected) + Counter(tested.rejected), note)


def _by_examples(source: Source, spec: DataSpec, form: Form, read: Read) -> Prepared:
    if spec.index == EVALUATOR:
        everything = read(source, source.owners, form)
        newest = everything.dataset.split(HELD_OUT)[1]
        note = "evaluates on everybody's newest examples: the same people as in training, since there are too few"
        return _prepared(source, empty_like(newest), newest, everything.rejected, note)
    own = _own_part(source, spec, form, source.owners, read, held_back=HELD_OUT)
    return _prepared(source, own.dataset, empty_like(own.dataset), own.rejected)


def _own_part(
    source: Source, spec: DataSpec, form: Form, owners: tuple[str, ...], read: Read, held_back: float = 0.0
) -> Reading:
    """A training device's part of ``owners``' examples, without everybody's newest ``held_back``."""
    rule = parse_partition(spec.partition)[0]
    if rule == "owner" or (rule == "auto" and len(owners) >= spec.devices):
        mine = read(source, deal_owners(owners, spec.devices)[spec.index], form)
        return Reading(mine.dataset.split(held_back)[0], mine.rejected)
    everything = read(source, owners, form)
    pool = everything.dataset.split(held_back)[0]
    shares = partition(pool, "even" if rule == "auto" else spec.partition, spec.devices, spec.seed)
    return Reading(pool.take(shares[spec.index]), everything.rejected)


def _prepared(source: Source, train: Dataset, held_out: Dataset, rejected: Mapping[str, int], *notes: str) -> Prepared:
    counts = Counter(source.skipped) + Counter(rejected)
    told = tuple(f"left out: {left_out(reason, count)}" for reason, count in sorted(counts.items()))
    return Prepared(train, held_out, (*source.notes, *notes, *told), dict(counts))

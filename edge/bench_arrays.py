"""The part of ``edge bench`` that needs arrays: a process apart, so that the agent's side weighs what an agent does.

``python -m edge.bench_arrays prepare PLAN FOLDER [DATA]`` finds a plan, a bundled one by its name or a file, and writes
``plan`` and ``model`` into FOLDER as the trainer takes them; without DATA also examples of the plan's shapes.
``python -m edge.bench_arrays codecs FOLDER`` encodes the ``delta`` that training gave, in every codec there is.
One line of JSON is printed: what was found, or the error.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import TypeAdapter

from edge.bench_report import CodecSpeed, Prepared
from schemas import compression
from schemas.errors import FedbeatError, PlanError
from schemas.parameters import Parameters
from schemas.plan import MAX_BYTES, Plan, Stored
from schemas.plan_file import PlanFile, bundled, find

EXAMPLES: Final = 2048  # that are made up, where as many fit into ...
ROOM: Final = 64 * 10**6  # ... so many bytes of one input
ENCODING_S: Final = 0.4  # for each codec
CODECS: Final = TypeAdapter(tuple[CodecSpeed, ...])


def prepare(name: str, folder: Path, data: str) -> Prepared:
    """Put plan, model and examples into ``folder``. Raises ``PlanError``."""
    file = read_plan(name)
    model = file.initial(0)
    (folder / "plan").write_bytes(file.plan.to_bytes())
    (folder / "model").write_bytes(compression.encode("float32", model, np.random.default_rng(0)))
    about = {"plan": file.plan.name, "parameters": model.manifest.size, "train": file.plan.train}
    if data:
        return Prepared.model_validate({**about, "path": data})
    path = folder / "examples.npz"
    return Prepared.model_validate({**about, "path": str(path), "made_up": make_up(file.plan, path)})


def read_plan(name: str) -> PlanFile:
    """A bundled plan, a plan file, or a file of what ``coordinator plan show --json`` prints. Raises ``PlanError``."""
    path = Path(name)
    try:
        if name in bundled() or path.stat().st_size > MAX_BYTES or not path.read_bytes().startswith(b"{"):
            return find(name)
        plan = Plan.from_bytes(path.read_bytes())
    except OSError:
        return find(name)  # which says what is wrong with it
    if any(isinstance(parameter.init, Stored) for parameter in plan.parameters):
        raise PlanError(f"{name} lacks the values its parameters start from: give the .plan file itself")
    return PlanFile(plan, {})


def make_up(plan: Plan, path: Path) -> int:
    """Write examples of the plan's shapes and classes, noise all of them; how many."""
    largest = max(4 * int(np.prod(each.shape, dtype=np.int64)) for each in plan.inputs)
    count = max(plan.train.batch_size, min(EXAMPLES, ROOM // largest))
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((count, *each.shape), dtype=np.float32) for each in plan.inputs]
    names = ["x"] if len(inputs) == 1 else [f"x{number}" for number in range(len(inputs))]
    labels = np.array(plan.classes)[np.arange(count) % len(plan.classes)]
    arrays = dict(zip(names, inputs, strict=True))
    np.savez(path, y=labels, classes=np.array(plan.classes), allow_pickle=False, **arrays)
    return count


def codecs(folder: Path) -> tuple[CodecSpeed, ...]:
    """How fast each codec encodes what training gave."""
    plan = Plan.from_bytes((folder / "plan").read_bytes())
    delta = compression.decode((folder / "delta").read_bytes(), plan.manifest())
    return tuple(speed(name, delta) for name in compression.NAMES)


def speed(codec: str, delta: Parameters) -> CodecSpeed:
    """Encode ``delta`` for a while."""
    rng = np.random.default_rng(0)
    payload = compression.encode(codec, delta, rng)  # once for the caches
    times, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < ENCODING_S or not times:
        payload = compression.encode(codec, delta, rng)
        times += 1
    return CodecSpeed(codec=codec, mb_per_s=times * delta.flat.nbytes / 1e6 / passed, update_bytes=len(payload))


def main(task: str, *arguments: str) -> None:
    """Do it, and print what came of it."""
    try:
        if task == "prepare":
            name, folder, data = arguments
            print(prepare(name, Path(folder), data).model_dump_json())  # noqa: T201 - for the process that asks
        else:
            print(CODECS.dump_json(codecs(Path(*arguments))).decode())  # noqa: T201 - likewise
    except FedbeatError as error:
        print(json.dumps({"error": type(error).__name__, "text": str(error)}))  # noqa: T201 - likewise


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Bytes, error and speed of every update codec, on real ECG updates and on normal vectors.

    python benchmarks/update_codecs.py --data ../shared/data/mitdb --kept /tmp/deltas
    python benchmarks/update_codecs.py --data ../shared/data/mitdb --nncodec venv/bin/python   # and Fraunhofer's coder

The ECG updates are those of 22 devices after a round of ``ecg-beats`` (see ``updates``), made once and kept in a
folder; without ``--data`` they are left out. A speed is megabytes of float32 a second of one core's time, the median of
some repeats: encoding with and without the zstd stage, and reading a payload through to its values. The error is the
squared distance over the squared norm. Prints a table, and JSON with the machine and the date on standard error.

NNC (ISO/IEC 15938-17) is the package ``nncodec``, which wants PyTorch and a C++ compiler: ``python -m venv venv &&
venv/bin/pip install nncodec``. Its quantisation parameter is chosen to come near the errors of ours. It is given the
ECG updates alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from broker import end_together, machine
from updates import deltas, normal, read_through, seconds

from schemas import compression
from schemas.errors import DataError
from schemas.parameters import Parameters

SIZES = (100_000, 1_000_000, 10_000_000)
COLUMNS = ("values", "codec", "kB", "bits a value", "error", "encode MB/s", "without zstd", "decode MB/s")


def measure(name: str, updates: list[Parameters], repeats: int) -> dict[str, Any]:
    """One codec's figures."""
    manifest, codec = updates[0].manifest, compression.TABLE[name]
    payloads = [compression.encode(name, update, np.random.default_rng(seed)) for seed, update in enumerate(updates)]
    errors = [
        (compression.decode(payload, manifest).subtract(update).norm() / update.norm()) ** 2
        for payload, update in zip(payloads, updates, strict=True)
    ]
    rng, mb = np.random.default_rng(0), 4e-6 * manifest.size * len(updates)
    return {
        "codec": name,
        **sizes(payloads, manifest.size),
        "error": statistics.mean(errors),
        "encode": mb / seconds(lambda: [compression.encode(name, each, rng) for each in updates], repeats),
        "quantise": mb / seconds(lambda: [codec.encode(each, rng) for each in updates], repeats),
        "decode": mb / seconds(lambda: read_through(payloads, manifest), repeats),
    }


def zstd_alone(updates: list[Parameters], repeats: int) -> dict[str, Any]:
    """What zstd's level 1 makes of the float32 values as they are."""
    packer, unpacker = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    packed = [packer.compress(update.flat.data) for update in updates]
    mb = 4e-6 * updates[0].manifest.size * len(updates)
    return {
        "codec": "zstd alone",
        **sizes(packed, updates[0].manifest.size),
        "error": 0.0,
        "encode": mb / seconds(lambda: [packer.compress(update.flat.data) for update in updates], repeats),
        "quantise": None,
        "decode": mb / seconds(lambda: [unpacker.decompress(each) for each in packed], repeats),
    }


def sizes(payloads: list[bytes], values: int) -> dict[str, float]:
    """Bytes an update, and bits a value."""
    mean = statistics.mean(map(len, payloads))
    return {"bytes": mean, "bits": 8 * mean / values}


NNC = """
import contextlib, io, json, sys, time
import numpy as np
from nncodec.nn import encode, decode

shapes, updates = json.loads(sys.argv[2]), np.load(sys.argv[1])
for qp in json.loads(sys.argv[3]):
    taken, size, errors = [0.0, 0.0], 0, []
    for flat in updates:
        at, arrays = 0, {}
        for name, shape in shapes:
            count = int(np.prod(shape))
            arrays[name], at = flat[at : at + count].reshape(shape).copy(), at + count
        with contextlib.redirect_stdout(io.StringIO()):
            began = time.process_time()
            stream = encode(arrays, args={"qp": qp, "nonweight_qp": qp, "verbose": False})
            middle = time.process_time()
            found = decode(stream)
            taken[0] += middle - began
            taken[1] += time.process_time() - middle
        size += len(stream)
        lost = sum(float(np.square(np.asarray(found[name]) - arrays[name]).sum()) for name in arrays)
        errors.append(lost / float(np.square(flat, dtype=np.float64).sum()))
    print(json.dumps({"qp": qp, "bytes": size / len(updates), "error": float(np.mean(errors)),
                      "encode": updates.nbytes / 1e6 / taken[0], "decode": updates.nbytes / 1e6 / taken[1]}))
"""


def nnc(python: Path, updates: list[Parameters], qps: list[int]) -> list[dict[str, Any]]:
    """The standard coder's figures at some quantisation parameters; none where it can't be run."""
    if shutil.which(python) is None:
        print(f"# nncodec is left out: there is no Python at {python}", file=sys.stderr)
        return []
    manifest = updates[0].manifest
    shapes = json.dumps([(tensor.name, tensor.shape or (1,)) for tensor in manifest.tensors])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "updates.npy"
        np.save(path, np.stack([update.flat for update in updates]))
        command = [str(python), "-c", NNC, str(path), shapes, json.dumps(qps)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if run.returncode:
        print(f"# nncodec is left out: {''.join(run.stderr.strip().splitlines()[-1:])}", file=sys.stderr)
        return []
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return [
        {"codec": f"NNC, qp {one.pop('qp')}", "bits": 8 * one["bytes"] / manifest.size, "quantise": None, **one}
        for one in found
    ]


def row(case: str, figures: dict[str, Any]) -> str:
    """One codec as a line of the table."""
    error = f"{figures['error']:.3g}" if figures["error"] > 1e-12 else "0"  # noqa: PLR2004 - float32's own rounding
    speeds = (f"{figures[key]:.0f}" if figures[key] else "" for key in ("encode", "quantise", "decode"))
    size = f"{figures['bytes'] / 1e3:,.1f} | {figures['bits']:.2f}"
    return f"| {case} | {figures['codec']} | {size} | {error} | {' | '.join(speeds)} |"


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the MIT-BIH records")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "fedbeat-deltas")
    parser.add_argument("--round", type=int, default=3, help="which round's updates")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the normal vectors")
    parser.add_argument("--codecs", nargs="*", default=compression.NAMES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nncodec", type=Path, help="a Python that has the package nncodec")
    parser.add_argument("--qps", type=int, nargs="*", default=[-24, -30, -36, -42, -48])
    given = parser.parse_args()
    end_together()
    print(f"# {machine()}; medians of {given.repeats}")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    cases = {f"{size:,} normal": normal(size) for size in given.sizes}
    if given.data is not None:
        try:
            cases = {"ECG, 22 updates": deltas(given.data, given.kept, given.round), **cases}
        except DataError as error:
            raise SystemExit(str(error)) from None
    for case, updates in cases.items():
        for name in given.codecs:
            show(case, measure(name, updates, given.repeats))
        show(case, zstd_alone(updates, given.repeats))
        if given.nncodec is None:
            print("# nncodec is left out: give --nncodec PYTHON", file=sys.stderr)
        elif len(updates) > 1:
            for figures in nnc(given.nncodec, updates, given.qps):
                show(case, figures)
        else:
            print("# nncodec is left out: it is given the ECG updates alone, which take --data", file=sys.stderr)


def show(case: str, figures: dict[str, Any]) -> None:
    """Print a line of the table, and the same for programs."""
    print(row(case, figures), flush=True)
    print(json.dumps({"case": case, **figures, "machine": machine()}), file=sys.stderr)


if __name__ == "__main__":
    main()

"""How fast the coordinator takes an update in: from the payload to the exact mean, for every codec.

    python benchmarks/fold.py                    # 5 million normal values, 20 MB as float32
    python benchmarks/fold.py --values 250000 --codecs int8 eden1

A speed is gigabytes of float32 a second of one core's time, the median of some repeats: ``compression.read`` with
``mean.fold``, reading through alone, and what zstd takes of it, where the body was packed at all. Beside them stand a
copy of the values in memory, and the fold of values that lie there already. Prints a table, and JSON with the machine
and the date on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import zstandard
from broker import machine
from updates import normal, read_through, seconds

from coordinator.aggregation import mean
from schemas import compression
from schemas.compression import entropy
from schemas.messages import StrategySettings
from schemas.parameters import Parameters

EXAMPLES = 700


def measure(name: str, update: Parameters, repeats: int) -> dict[str, Any]:
    """One codec's figures."""
    manifest, gigabytes = update.manifest, 4e-9 * update.manifest.size
    payload = compression.encode(name, update, np.random.default_rng(0))
    total = mean.init(manifest, StrategySettings(), EXAMPLES)
    _, _, packing, _ = compression.HEADER.unpack_from(payload)
    body, unpacker = memoryview(payload)[compression.HEADER.size :], zstandard.ZstdDecompressor()
    return {
        "codec": name,
        "fold": gigabytes / seconds(lambda: mean.fold(total, compression.read(payload, manifest), EXAMPLES), repeats),
        "read": gigabytes / seconds(lambda: read_through([payload], manifest), repeats),
        "zstd": gigabytes / seconds(lambda: unpacker.decompress(body), repeats) if packing == entropy.ZSTD else None,
    }


def main() -> None:
    """Run the codecs asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=5_000_000)
    parser.add_argument("--codecs", nargs="*", default=compression.NAMES)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    update = normal(given.values)[0]
    copy, gigabytes = np.empty_like(update.flat), 4e-9 * given.values
    total = mean.init(update.manifest, StrategySettings(), EXAMPLES)
    copied = gigabytes / seconds(lambda: np.copyto(copy, update.flat), given.repeats)
    folded = gigabytes / seconds(lambda: mean.fold(total, update, EXAMPLES), given.repeats)
    print(f"# {machine()}; {given.values:,} values; medians of {given.repeats}")
    print(f"# a copy in memory {copied:.2f} GB/s, the fold of values in memory {folded:.2f} GB/s")
    print("| codec | payload to mean, GB/s | payload to values | zstd alone | share of a copy |\n|---|---|---|---|---|")
    for name in given.codecs:
        figures = measure(name, update, given.repeats)
        zstd = f"{figures['zstd']:.2f}" if figures["zstd"] else "stored"
        speeds = f"{figures['fold']:.2f} | {figures['read']:.2f} | {zstd} | {figures['fold'] / copied:.0%}"
        print(f"| {name} | {speeds} |", flush=True)
        print(json.dumps({**figures, "copy": copied, "machine": machine()}), file=sys.stderr)


if __name__ == "__main__":
    main()

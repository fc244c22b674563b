"""Generate ``federation_pb2.py`` and ``.pyi`` beside the schema; ``--check`` compares, and fails where they differ.

Run from anywhere as ``python -m schemas.proto.generate [--check]``. Needs ``grpcio-tools`` (the extra ``dev``), whose
compiler is pinned in ``constraints.txt``: another version writes another header.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Path("schemas/proto/federation.proto")
GENERATED = (SCHEMA.with_name("federation_pb2.py"), SCHEMA.with_name("federation_pb2.pyi"))


def generate(target: Path) -> None:
    """Write the generated files below ``target``; raises ``SystemExit`` where the schema doesn't compile."""
    arguments = ["protoc", f"--proto_path={ROOT}", f"--python_out={target}", f"--pyi_out={target}", str(ROOT / SCHEMA)]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"{SCHEMA} doesn't compile; see above")


def stale(root: Path = ROOT) -> tuple[Path, ...]:
    """The generated files below ``root`` that are missing or not what the schema gives."""
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        return tuple(
            path
            for path in GENERATED
            if not (root / path).exists() or (root / path).read_bytes() != (Path(fresh) / path).read_bytes()
        )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns 1 where ``--check`` found something out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the files are out of date")
    if not parser.parse_args(arguments).check:
        generate(ROOT)
        return 0
    outdated = stale()
    for path in outdated:
        sys.stderr.write(f"{path} is out of date: run python -m schemas.proto.generate\n")
    return 1 if outdated else 0


if __name__ == "__main__":
    sys.exit(main())

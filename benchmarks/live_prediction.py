"""What finding beats beside ``edge run`` costs by either runtime: the process's memory, and time for an hour of ECG.

    python benchmarks/live_prediction.py [RECORD]

RECORD is a WFDB record, MIT-BIH's 208 unless told. It is recorded once; then a process follows those files with the
plan's own start for a model. What the beats are taken for makes no difference here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from broker import end_together, machine
from safetensors.numpy import save_file

from schemas.plan_file import find

MITDB = Path(os.environ.get("FEDBEAT_MITDB", Path(__file__).parents[2] / "shared" / "data" / "mitdb"))
FOLLOW = """
import json, resource, sys
from pathlib import Path
from edge.findings.classifier import BeatClassifier
from edge.health import peak_mb
from edge.findings.live_findings import LiveFindings
from edge.findings.segment_tail import SegmentTail

recorded, followed, model, runtime = sys.argv[1:]
live = LiveFindings(BeatClassifier.of("ecg-beats", Path(model), runtime), 300.0)
tail = SegmentTail(Path(followed))
for path in Path(recorded).glob("ecg_*"):
    (Path(followed) / path.name).hardlink_to(path)
began, signal_s = resource.getrusage(resource.RUSAGE_SELF), 0.0
while (piece := tail.read()) is not None:
    live.feed(piece.samples, piece.rate, piece.at)
    signal_s += len(piece.samples) / piece.rate
ended = resource.getrusage(resource.RUSAGE_SELF)
busy_s = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
print(json.dumps({"mb": peak_mb(), "busy_s": busy_s, "signal_s": signal_s, "torch": "torch" in sys.modules}))
"""


def main() -> None:
    """Record, then follow with each runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", nargs="?", default=str(MITDB / "208"), help="a WFDB record, by its name")
    record = parser.parse_args().record
    end_together()
    print(machine())
    print("runtime   memory MB   s for an hour of ECG")
    with tempfile.TemporaryDirectory() as folder:
        model, recorded = Path(folder) / "model.safetensors", Path(folder) / "recorded"
        save_file({name: array.copy() for name, array in find("ecg-beats").initial(0).arrays().items()}, model)
        source = f"replay:{record}?speed=max"
        command = [sys.executable, "-m", "edge", "record", "--source", source, "--to", str(recorded)]
        subprocess.run(command, capture_output=True, check=True)
        for runtime in ("onnx", "torch"):
            followed = Path(folder) / runtime
            followed.mkdir()
            arguments = [str(recorded), str(followed), str(model), runtime]
            done = subprocess.run([sys.executable, "-c", FOLLOW, *arguments], capture_output=True, check=True)
            found = json.loads(done.stdout)
            if found["torch"] != (runtime == "torch"):
                sys.exit(f"{runtime} brought another runtime along")
            print(f"{runtime:8} {found['mb']:10.0f} {found['busy_s'] * 3600 / found['signal_s']:22.1f}")


if __name__ == "__main__":
    main()

"""Rounds of 100, 500 and 1000 devices, each with an MQTT session of its own, beside the bare messages.

    python benchmarks/fleet_scale.py                              # 5 and 100 kB updates, 100, 500 and 1000 devices
    python benchmarks/fleet_scale.py --kb 5 --devices 1000

Real agents on one mosquitto, as in ``round.py``: their trainer has its answer ready, so that a round is its messages
(announcement, joins, updates, receipts, the new model) and the coordinator's work. The limit is what as many bare paho
clients need to get the same bytes to one subscriber over the same broker, in one message each. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from broker import machine, memory, mosquitto
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from round import FEDERATION, fleets, make_plan

from schemas import compression
from schemas.parameters import Parameters

CODEC = "int4"
FAN_IN_S = 120.0
TRIES = 5


def model_size(kb: float, folder: Path) -> float:
    """MB of float32 parameters whose delta takes ``kb`` in the codec, its plan written to ``folder``."""
    rng = np.random.default_rng(0)
    mb = kb / 80
    for _ in range(4):  # the bytes are nearly proportional
        from coordinator import plan_file  # noqa: PLC0415 - only the parent needs it

        manifest = plan_file.find(str(make_plan(mb, folder))).plan.manifest()
        delta = Parameters(manifest, rng.normal(0, 1e-3, manifest.size).astype(np.float32))
        mb *= kb * 1e3 / len(compression.encode(CODEC, delta, rng))
    return mb


def measure(kb: float, devices: int, rounds: int) -> dict[str, Any]:
    """One federation's figures."""
    with tempfile.TemporaryDirectory() as name, mosquitto() as broker, fleets(broker, devices):
        folder = Path(name)
        model_size(kb, folder)
        command = [sys.executable, "-m", "coordinator.cli", "start", "--json", "--no-evaluate"]
        options = {
            "--broker": broker,
            "--federation": FEDERATION,
            "--plan": folder / "wide.plan",
            "--rounds": rounds,
            "--devices-min": devices,
            "--goal": devices,
            "--codec": CODEC,
            "--state": folder / "coordinator",
        }
        command += [text for name, value in options.items() for text in (name, str(value))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
            figures = watch(coordinator, devices)
    return {"kb": kb, "devices": devices, **figures, **fan_in(round(figures["uplink_bytes"]), devices)}


def watch(coordinator: subprocess.Popen[str], devices: int) -> dict[str, Any]:
    """The figures of a run, from the coordinator's events; the first round warms up and doesn't count."""
    assert coordinator.stdout is not None
    process = psutil.Process(coordinator.pid)
    commits: list[float] = []
    used: list[float] = []
    peak = uplink = 0.0
    for line in coordinator.stdout:
        event = json.loads(line)
        if event["event"] == "round_closed" and event["summary"]["outcome"] == "committed":
            times = process.cpu_times()
            commits.append(event["at"])
            used.append(times.user + times.system)
            uplink = event["summary"]["uplink_bytes"] / devices
            peak = memory(coordinator.pid)
    seconds = [after - before for before, after in itertools.pairwise(commits)]
    return {
        "seconds": round(statistics.median(seconds), 3),
        "seconds_min": round(min(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "cpu_ms_a_device": round((used[-1] - used[0]) / (len(used) - 1) / devices * 1e3, 3),
        "coordinator_mb": round(peak, 1),
        "uplink_bytes": uplink,
    }


def fan_in(size: int, devices: int) -> dict[str, float]:
    """Seconds until one subscriber has ``size`` bytes of each of as many bare clients; the median of some tries."""
    with mosquitto() as broker, ExitStack() as stack:
        host, port = broker.removeprefix("mqtt://").split(":")
        count = min(devices, os.cpu_count() or 1)
        have, whole = itertools.count(1), threading.Event()

        def heard(*_: object) -> None:
            if next(have) % devices == 0:
                whole.set()

        listener = mqtt.Client(CallbackAPIVersion.VERSION2)
        listener.on_message = heard
        ready = threading.Event()
        listener.on_subscribe = lambda *_: ready.set()
        listener.connect(host, int(port))
        listener.subscribe("up/#", qos=1)
        listener.loop_start()
        ready.wait(FAN_IN_S)
        senders = []
        for number in range(count):
            share = str(devices // count + (number < devices % count))
            command = [sys.executable, __file__, "--be-bare", host, port, share, str(size), str(number)]
            senders.append(
                stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            )
        for sender in senders:
            assert sender.stdout is not None
            sender.stdout.readline()
        seconds = []
        for _ in range(TRIES):
            whole.clear()
            began = time.perf_counter()
            for sender in senders:
                assert sender.stdin is not None
                sender.stdin.write("go\n")
                sender.stdin.flush()
            if not whole.wait(FAN_IN_S):
                raise SystemExit(f"the bare messages did not arrive within {FAN_IN_S:g} s")
            seconds.append(time.perf_counter() - began)
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.close()
        listener.disconnect()
        listener.loop_stop()
    return {"bare_seconds": round(statistics.median(seconds), 3)}


def be_bare(host: str, port: int, clients: int, size: int, number: int) -> None:
    """A process of bare clients: each publishes once for each line on standard input."""
    up = [threading.Event() for _ in range(clients)]
    senders = []
    for index in range(clients):
        sender = mqtt.Client(CallbackAPIVersion.VERSION2)
        sender.on_connect = lambda *_, event=up[index]: event.set()
        sender.connect(host, port)
        sender.loop_start()
        senders.append(sender)
    for event in up:
        event.wait(FAN_IN_S)
    print("ready", flush=True)
    payload = os.urandom(size)
    for _ in sys.stdin:
        for index, sender in enumerate(senders):
            sender.publish(f"up/{number}-{index}", payload, qos=1)
    for sender in senders:
        sender.disconnect()


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=float, nargs="*", default=[5.0, 100.0], help="of an update")
    parser.add_argument("--devices", type=int, nargs="*", default=[100, 500, 1000])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--be-bare", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.be_bare:
        host, *numbers = given.be_bare
        port, clients, size, number = map(int, numbers)
        be_bare(host, port, clients, size, number)
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket a session, for the broker too
    print(f"# {machine()}; {CODEC}; medians of {given.rounds - 1} rounds")
    print("| kB an update | devices | s a round | min | max | bare s | coordinator ms a device | coordinator MB |")
    print("|---|---|---|---|---|---|---|---|")
    for kb in given.kb:
        for devices in given.devices:
            f = measure(kb, devices, given.rounds)
            print(json.dumps(f), file=sys.stderr)
            times = f"{f['seconds']} | {f['seconds_min']} | {f['seconds_max']} | {f['bare_seconds']}"
            kb_sent = f["uplink_bytes"] / 1e3
            print(
                f"| {kb_sent:.1f} | {devices} | {times} | {f['cpu_ms_a_device']} | {f['coordinator_mb']} |", flush=True
            )


if __name__ == "__main__":
    main()

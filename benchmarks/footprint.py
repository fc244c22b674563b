"""What a device costs its machine and its line when it waits and when it trains, beside Flower's SuperNode.

    python benchmarks/footprint.py                                # twenty minutes of waiting, then rounds of training
    python benchmarks/footprint.py --peer ~/.cache/fedbeat-flwr   # Flower from PyPI in a virtual environment there

Three wait at the same time, each behind a relay that counts: ``edge run`` with its defaults at keepalive 60 on a
mosquitto where no coordinator is; ``edge run`` in a federation whose coordinator is up and waits for more devices;
and ``flower-supernode`` on a SuperLink. Memory is that of the process and all its children. The bytes of an hour are
those of ``--seconds`` scaled up, with their packets' headers. Before that each trains alone on one person's
smartwatch windows, the same network in the same rounds, and the most memory it has at any time is sampled. Prints
JSON and a table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from broker import end_together, machine, mosquitto
from counting import Relay, relay
from flower import Flower, install

from edge.sources import load
from schemas import codec
from schemas.errors import WireError
from schemas.link.address import BrokerAddress
from schemas.link.link import Event, Inbound
from schemas.link.mqtt import MqttLink
from schemas.link.mqtt_settings import MqttSettings
from schemas.messages import DeviceState, DeviceStatus
from schemas.topics import Kind, Topics

KEEPALIVE_S: Final = 60
HEARTBEAT_S: Final = 600  # of an idle device and coordinator; a window holds a whole number of them
SETTLE_S: Final = 90.0  # after all are ready, what still comes belongs to the start: some short heartbeats too
LIMIT_S: Final = 120.0
PERSON: Final = "person-01"
ROUNDS: Final = 3
SAMPLE_S: Final = 0.05


def recordings(folder: Path) -> Path:
    """One person's windows in a file, as a device has them."""
    watch = load("watch", "watch")
    own = watch.take(np.flatnonzero(watch.owners == PERSON))
    np.savez(folder / "person.npz", x=own.inputs[0], y=np.array([own.classes[k] for k in own.labels]))
    return folder / "person.npz"


@contextmanager
def process(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """One of our commands, ended with the block."""
    command = [sys.executable, *(str(argument) for argument in arguments)]
    child = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def device(broker: str, folder: Path, federation: str, data: Path, *more: object) -> Any:
    """``edge run``, as an owner starts it."""
    return process(
        *("-m", "edge", "run", "--broker", broker, "--federation", federation, "--device", f"in-{federation}"),
        *("--data", data, "--held-out", "none", "--state", folder / f"edge-{federation}", *more),
        env={**os.environ, "FEDBEAT_KEEPALIVE": str(KEEPALIVE_S)},
    )


def coordinator(broker: str, folder: Path, federation: str, *more: object) -> Any:
    """``coordinator start`` with the smartwatch plan."""
    return process(
        *("-m", "coordinator", "start", "--broker", broker, "--federation", federation, "--plan", "watch"),
        *("--state", folder / f"coordinator-{federation}", "--no-evaluate", *more),
    )


@contextmanager
def listening(broker: str, federation: str) -> Iterator[Callable[[], bool]]:
    """Whether a device of the federation has said how it is."""
    topics = Topics(federation)
    heard: list[DeviceStatus] = []

    def take(event: Event) -> None:
        if not isinstance(event, Inbound):
            return
        event.ack()
        try:
            message = codec.decode(Kind.DEVICE, event.payload)
        except WireError:
            return
        if isinstance(message, DeviceStatus) and message.state is not DeviceState.OFFLINE:
            heard.append(message)

    link = MqttLink(MqttSettings(BrokerAddress.parse(broker), f"ear-{federation}"), take)
    link.subscribe(topics.filter(Kind.DEVICE))
    link.open()
    try:
        yield lambda: bool(heard)
    finally:
        link.close()


def until(condition: Callable[[], object], what: str, pause_s: float = 0.01) -> float:
    """The seconds until ``condition``."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > LIMIT_S:
            raise SystemExit(f"{what} didn't come within {LIMIT_S:g} s: run it by hand to see why")
        time.sleep(pause_s)
    return time.monotonic() - began


def tree(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process with all its children, in MB of 10^6 bytes."""
    root = psutil.Process(pid)
    totals = {"rss": 0.0, "pss": 0.0}
    for each in (root, *root.children(recursive=True)):
        try:
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        for line in lines:
            name = line.partition(":")[0].lower()
            if name in totals:
                totals[name] += int(line.split()[1]) * 1024 / 1e6
    return totals


def peak(pid: int, done: Callable[[], bool]) -> dict[str, float]:
    """The most memory that a process tree has at a time until ``done``."""
    most = {"rss": 0.0, "pss": 0.0}
    while not done():
        most = {name: max(most[name], value) for name, value in tree(pid).items()}
        time.sleep(SAMPLE_S)
    return most


def cost(waiting: dict[str, tuple[Relay, int]], seconds: float) -> dict[str, dict[str, float]]:
    """Memory, and bytes of an hour, of processes that wait for ``seconds``."""
    time.sleep(SETTLE_S)
    before = {name: counter.traffic() for name, (counter, _) in waiting.items()}
    began = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - began
    costs = {}
    for name, (counter, pid) in waiting.items():
        traffic, memory = counter.traffic().since(before[name]), tree(pid)
        costs[name] = {
            "idle_rss_mb": round(memory["rss"], 1),
            "idle_pss_mb": round(memory["pss"], 1),
            "idle_processes": 1 + len(psutil.Process(pid).children(recursive=True)),
            "measured_s": round(passed),
            "measured_bytes": traffic.on_the_wire,
            "payload_bytes": traffic.up + traffic.down,
            "packets": traffic.segments_up + traffic.segments_down,
            "kb_an_hour": round(traffic.on_the_wire / passed * 3.6, 1),
        }
    return costs


def wait(folder: Path, data: Path, seconds: float, flower: Flower | None) -> dict[str, dict[str, float]]:
    """All of them waiting at the same time."""
    waiting: dict[str, tuple[Relay, int]] = {}
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto())
        stack.enter_context(coordinator(broker, folder, "busy", "--devices-min", 2, "--deadline", 86_400))
        for name, federation in (("edge run", "quiet"), ("edge run, coordinator up", "busy")):
            counter = stack.enter_context(relay(int(broker.rpartition(":")[2])))
            near = f"mqtt://127.0.0.1:{counter.port}"
            with listening(broker, federation) as heard:
                child = stack.enter_context(device(near, folder, federation, data, "--trainer-idle", 5))
                until(heard, "its status")
            waiting[name] = counter, child.pid
        if flower is not None:
            counter = stack.enter_context(relay(stack.enter_context(flower.superlink())))
            node = stack.enter_context(flower.supernode(counter.port))
            until(lambda: node.ready, "the SuperNode's registration")
            waiting["Flower SuperNode"] = counter, node.pid
        for name in ("edge run", "edge run, coordinator up"):
            until(lambda name=name: not psutil.Process(waiting[name][1]).children(), "the end of an idle trainer")  # type: ignore[misc]
        return cost(waiting, seconds)


def start(folder: Path, data: Path, times: int, flower: Flower | None) -> dict[str, float]:
    """Seconds from the command until the other end knows the device; medians."""
    ours, theirs = [], []
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto())
        port = stack.enter_context(flower.superlink()) if flower is not None else 0
        for number in range(times):
            with listening(broker, f"start-{number}") as heard, device(broker, folder, f"start-{number}", data):
                ours.append(until(heard, "the first status", 0.002))
            if flower is not None:
                began = time.monotonic()
                with flower.supernode(port) as node:
                    until(lambda node=node: node.ready, "the SuperNode's registration", 0.002)  # type: ignore[misc]
                    theirs.append(time.monotonic() - began)
    medians = {"edge run": statistics.median(ours)}
    return medians | ({"Flower SuperNode": statistics.median(theirs)} if theirs else {})


def train(folder: Path, data: Path, flower: Flower | None) -> dict[str, dict[str, float]]:
    """The most memory of a device that trains, each alone."""
    peaks = {}
    with mosquitto() as broker, device(broker, folder, "training", data) as child:
        options = ("--devices-min", 1, "--goal", 1, "--rounds", ROUNDS, "--codec", "float32")
        with coordinator(broker, folder, "training", *options) as run:
            peaks["edge run"] = peak(child.pid, lambda: run.poll() is not None)
    if flower is not None:
        with flower.superlink() as port, flower.supernode(port, data) as node:
            until(lambda: node.ready, "the SuperNode's registration")
            with flower.run(port, folder, ROUNDS) as app:
                peaks["Flower SuperNode"] = peak(node.pid, lambda: app.poll() is not None)
                if app.returncode:
                    raise SystemExit(f"the Flower app ended with code {app.returncode}: see {folder}")
    return peaks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2 * HEARTBEAT_S, help="of waiting (1200: two heartbeats)")
    parser.add_argument("--times", type=int, default=3, help="starts")
    parser.add_argument("--peer", type=Path, help="folder for Flower's virtual environment; left out unless given")
    parser.add_argument("--only", choices=("start", "wait", "train"), help="one of the three measurements")
    given = parser.parse_args()
    end_together()
    flower = install(given.peer) if given.peer else None
    if given.peer is None:
        print("# Flower is left out: give --peer FOLDER", file=sys.stderr)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = recordings(folder)
        if given.only in {None, "start"}:
            for name, seconds in start(folder, data, given.times, flower).items():
                figures.setdefault(name, {})["start_s"] = round(seconds, 2)
        if given.only in {None, "train"}:
            for name, most in train(folder, data, flower).items():
                figures.setdefault(name, {}).update({f"training_{kind}_mb": round(mb, 1) for kind, mb in most.items()})
        if given.only in {None, "wait"}:
            for name, costs in wait(folder, data, given.seconds, flower).items():
                figures.setdefault(name, {}).update(costs)
    print(json.dumps({"machine": machine(), "flower": flower and flower.version, "figures": figures}, indent=2))
    print(f"# {machine()}{f'; Flower {flower.version}' if flower else ''}")
    columns = ("start_s", "idle_rss_mb", "idle_pss_mb", "kb_an_hour", "training_rss_mb", "training_pss_mb")
    print("| | ready, s | idle RSS, MB | idle PSS, MB | kB an hour | training RSS, MB | training PSS, MB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in figures.items():
        print(f"| {name} | {' | '.join(str(row.get(column, '')) for column in columns)} |")


if __name__ == "__main__":
    main()

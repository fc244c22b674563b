"""Rounds of 100, 500 and 1000 devices, each with an MQTT session of its own, beside the bare messages.

    python benchmarks/fleet_scale.py                              # 5 and 100 kB updates, 100, 500 and 1000 devices
    python benchmarks/fleet_scale.py --kb 5 --devices 1000
    python benchmarks/fleet_scale.py --kb 5 --devices 100 --agents   # real agents in place of light devices

A real coordinator, its journal on disk, on one mosquitto. A round is its messages (announcement, joins, updates,
receipts, statuses, the step to the new model) and the coordinator's work: nobody trains. The devices are those of
``light_devices.py``, unless ``--agents`` asks for those of ``round.py``. Two limits stand beside it (``bare.py``): what
as many bare clients need to get the bytes of the updates to one subscriber over the same broker, in one message each;
and what they and a bare server need for as many messages as a round has. CPU is of each process's own time, a device
and round. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bare
import numpy as np
import psutil
from broker import end_together, machine, memory, mosquitto
from round import FEDERATION, fleets, make_plan

from schemas import compression
from schemas.parameters import Parameters

CODEC = "int4"
PROCESSES = 2  # that play the devices
LIGHT = Path(__file__).with_name("light_devices.py")


def prepare(kb: float, folder: Path) -> Path:
    """Write a plan whose delta takes ``kb`` in the codec to ``folder``, and such a delta; its path."""
    from schemas import plan_file  # noqa: PLC0415 - only the parent needs it

    rng = np.random.default_rng(0)
    mb, payload = kb / 80, b""
    for _ in range(4):  # the bytes are nearly proportional
        manifest = plan_file.find(str(make_plan(mb, folder))).plan.manifest()
        delta = Parameters(manifest, rng.normal(0, 1e-3, manifest.size).astype(np.float32))
        payload = compression.encode(CODEC, delta, rng)
        mb *= kb * 1e3 / len(payload)
    path = folder / "delta"
    path.write_bytes(payload)
    return path


def measure(kb: float, devices: int, rounds: int, *, agents: bool) -> dict[str, Any]:
    """One federation's figures."""
    with tempfile.TemporaryDirectory() as name, mosquitto() as broker:
        folder = Path(name)
        delta = prepare(kb, folder)
        playing = fleets(broker, devices) if agents else light_fleets(broker, devices, delta)
        with playing as players:
            command = [sys.executable, "-m", "coordinator", "start", "--json", "--no-evaluate"]
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
                figures = watch(coordinator, players, devices)
    size, seconds = round(figures["uplink_bytes"]), figures["seconds"]
    fan_in, exchange = bare.fan_in(size, devices), bare.exchange(size, devices)
    limits = {"fan_in_seconds": fan_in, "fan_in_ratio": round(seconds / fan_in, 1)}
    limits |= {"exchange_seconds": exchange, "exchange_ratio": round(seconds / exchange, 1)}
    return {"kb": kb, "devices": devices, "agents": agents, **figures, **limits}


@contextmanager
def light_fleets(broker: str, devices: int, delta: Path) -> Iterator[list[int]]:
    """Processes that share the devices, all of them connected; their ids."""
    count = min(devices, PROCESSES)
    with ExitStack() as stack:
        children = []
        for number in range(count):
            share = str(devices // count + (number < devices % count))
            command = [sys.executable, str(LIGHT), broker, FEDERATION, share, f"light-{number}", str(delta)]
            children.append(stack.enter_context(piped(command)))
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield [child.pid for child in children]
        for child in children:
            assert child.stdin is not None
            child.stdin.close()


def piped(command: list[str]) -> AbstractContextManager[subprocess.Popen[str]]:
    """A child that is spoken to by lines."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def watch(coordinator: subprocess.Popen[str], players: list[int], devices: int) -> dict[str, Any]:
    """The figures of a run, from the coordinator's events; the first round warms up and doesn't count."""
    assert coordinator.stdout is not None
    broker = next(child.pid for child in psutil.Process().children() if child.name() == "mosquitto")
    commits: list[float] = []
    used: list[tuple[float, float, float]] = []
    peak = uplink = 0.0
    for line in coordinator.stdout:
        if not line.startswith('{"event": "round_closed"'):  # reading a thousand others would take the cores
            continue
        event = json.loads(line)
        if event["summary"]["outcome"] == "committed":
            used.append((cpu_s(coordinator.pid), cpu_s(broker), sum(map(cpu_s, players))))
            commits.append(event["at"])
            uplink = event["summary"]["uplink_bytes"] / devices
            peak = memory(coordinator.pid)
    seconds = [after - before for before, after in itertools.pairwise(commits)]
    spent = [(last - first) / len(seconds) / devices * 1e3 for first, last in zip(used[0], used[-1], strict=True)]
    names = ("coordinator_ms_a_device", "broker_ms_a_device", "devices_ms_a_device")
    return {
        "seconds": round(statistics.median(seconds), 3),
        "seconds_min": round(min(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        **{name: round(ms, 3) for name, ms in zip(names, spent, strict=True)},
        "coordinator_mb": round(peak, 1),
        "uplink_bytes": uplink,
    }


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=float, nargs="*", default=[5.0, 100.0], help="of an update")
    parser.add_argument("--devices", type=int, nargs="*", default=[100, 500, 1000])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--agents", action="store_true", help="play the devices by real agents")
    given = parser.parse_args()
    end_together()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a socket a session, for the broker too
    print(f"# {machine()}; {CODEC}; medians of {given.rounds - 1} rounds; CPU in ms a device and round")
    print(
        "| kB up | devices | s a round | min | max | fan-in s | ratio | exchange s | ratio "
        "| coordinator | broker | devices | coordinator MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for kb in given.kb:
        for devices in given.devices:
            f = measure(kb, devices, given.rounds, agents=given.agents)
            print(json.dumps(f), file=sys.stderr)
            times = f"{f['seconds']} | {f['seconds_min']} | {f['seconds_max']}"
            limits = f"{f['fan_in_seconds']} | {f['fan_in_ratio']} | {f['exchange_seconds']} | {f['exchange_ratio']}"
            spent = f"{f['coordinator_ms_a_device']} | {f['broker_ms_a_device']} | {f['devices_ms_a_device']}"
            row = f"{f['uplink_bytes'] / 1e3:.1f} | {devices} | {times} | {limits} | {spent} | {f['coordinator_mb']}"
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()

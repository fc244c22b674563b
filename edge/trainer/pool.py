"""The agent's side of training: child processes that exist only while there is work, and a queue of jobs for them.

No numpy here: what the agent's process imports, it keeps in memory all day. A child talks over a Unix socket in a
directory that only this user can enter, and is checked to be the process that was started.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from edge.core.jobs import (
    MAX_TEXT,
    Answer,
    Cancel,
    Done,
    Failure,
    Job,
    Progressed,
    Result,
    Train,
    Warm,
    read_answer,
)
from edge.trainer.frames import Frames
from edge.trainer.stacking import Stacking, alike, request, sharing
from schemas.errors import WireError

START_S = 60.0  # for a child to start Python and connect, on a slow card
SUSPEND_S = 6.0  # for what a suspended job answers
CANCEL_S = 5.0  # for a child to stop a cancelled job between two batches, before it is killed
_POLL_S = 0.1

log = logging.getLogger(__name__)
OnResult = Callable[[Progressed | Result | Failure], None]


class ChildDied(Exception):
    """The child ended, or said what no child says; becomes a ``Failure``."""


@dataclass(eq=False, slots=True)
class _Task:
    """A job on its way. What is answered is given to ``on_result`` unless it was cancelled."""

    job: Job | Warm
    on_result: OnResult | None
    alone: bool = False  # it isn't done together with others
    cancelled: threading.Event = field(default_factory=threading.Event)
    suspended: bool = False  # cancelled, and where it was is wanted
    left: Progressed | None = None  # where it was
    over: threading.Event = field(default_factory=threading.Event)


class TrainerPool:
    """Runs jobs in ``workers`` child processes; each starts with its first job and ends after ``idle_s`` without one.

    ``threads`` and ``nice`` are each child's. With ``stacking``, trainings of one plan, model and settings that wait at
    the same time go to a child in one request, which does them together. ``on_result`` is called on a thread of the
    pool, once for each job that was not cancelled and before that as the job gets on, and should not raise. Usable as
    a context manager.
    """

    def __init__(
        self,
        workers: int = 1,
        idle_s: float = 30.0,
        threads: int = 1,
        nice: int = 10,
        stacking: Stacking | None = None,
    ) -> None:
        self._idle_s = idle_s
        self._stacking = stacking
        self._newest: Train | None = None
        self._threads = threads
        self._nice = nice
        self._waiting: deque[_Task] = deque()
        self._running: set[_Task] = set()
        self._change = threading.Condition()
        self._closed = False
        self._serial = itertools.count()
        self._workers = [
            threading.Thread(target=self._work, name=f"trainer-{number}", daemon=True) for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, job: Job, on_result: OnResult) -> None:
        """Do ``job`` when a child is free, in order of submission; after ``close`` it is dropped."""
        if self._stacking is not None:
            job = sharing(job, self._newest)
            self._newest = job if isinstance(job, Train) else self._newest
        self._put(_Task(job, on_result))

    def warm(self) -> None:
        """Start a child and import torch where none is at work, so that a job that is expected starts at once."""
        with self._change:
            if not self._waiting and not self._running:
                self._put(_Task(Warm(key=f"warm-{next(self._serial)}"), None))

    def cancel(self, key: str) -> None:
        """Drop the job of this key: ``on_result`` won't be called for it, unless that is happening now."""
        with self._change:
            self._waiting = deque(task for task in self._waiting if task.job.key != key)
            for task in self._running:
                if task.job.key == key:
                    task.cancelled.set()

    def suspend(self, key: str) -> Progressed | None:
        """Drop the job of this key as ``cancel`` does, and give where it was, with a checkpoint.

        None where there is nothing to go on from. Waits for the batch that is running, at most ``SUSPEND_S``.
        """
        with self._change:
            running = [task for task in self._running if task.job.key == key]
            for task in running:
                task.suspended = True
        self.cancel(key)
        for task in running:
            task.over.wait(SUSPEND_S)
        return running[0].left if running else None

    def close(self) -> None:
        """End all children and drop all jobs. Returns when they have ended."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            for task in self._running:
                task.cancelled.set()
            self._change.notify_all()
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, task: _Task) -> None:
        with self._change:
            if not self._closed:
                self._waiting.append(task)
                self._change.notify()

    def _work(self) -> None:
        """One worker's life: take a task, have a child do it, and let the child go when nothing comes."""
        child: _Child | None = None
        try:
            while not self._closed:
                tasks = self._take(self._idle_s if child else None)
                if child and (not tasks or child.ended()):
                    child.end()
                    child = None
                if not tasks:
                    continue
                try:
                    child = child or _Child(self._threads, self._nice, self._stacking)
                    child.do(tasks, lambda: self._closed, self._hear)
                except ChildDied as error:
                    if child:
                        child.end()
                    child = None
                    self._died(tasks, error)
        finally:
            if child:
                child.end()

    def _take(self, limit_s: float | None) -> list[_Task]:
        """The next task, and what is done together with it, now running.

        Empty where none comes within ``limit_s``, or the pool is closed.
        """
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed, limit_s)
            if self._closed or not self._waiting:
                return []
            taken = [self._waiting.popleft()]
            if self._stacking is not None and not taken[0].alone:
                others = [task for task in self._waiting if not task.alone]
                running = (task.job for task in self._running)
                places = alike(taken[0].job, (task.job for task in others), len(self._workers), running)
                taken += [others[place] for place in places]
                chosen = set(taken)
                self._waiting = deque(task for task in self._waiting if task not in chosen)
            self._running.update(taken)
            return taken

    def _hear(self, task: _Task, answer: Answer) -> None:
        if isinstance(answer, Progressed):
            self._progress(task, answer)
        else:
            self._finish(task, answer)

    def _died(self, tasks: list[_Task], error: ChildDied) -> None:
        """What the child had in hand has failed; of several one is to blame, so each is tried again by itself."""
        left = [task for task in tasks if not task.over.is_set()]
        if len(tasks) > 1:
            with self._change:
                again = [task for task in left if not task.cancelled.is_set() and not self._closed]
                for task in again:
                    task.alone = True
                    self._running.discard(task)
                self._waiting.extendleft(reversed(again))
                self._change.notify_all()
            if again:
                log.warning("the trainer process ended: %s; its %d trainings are done one by one", error, len(again))
            left = [task for task in left if task not in again]
        for task in left:
            text = f"the trainer process ended: {error}"[:MAX_TEXT]
            self._finish(task, Failure(key=task.job.key, kind="crash", message=text))

    def _progress(self, task: _Task, answer: Progressed) -> None:
        if not task.cancelled.is_set():
            _hand_over(task, answer)
        elif task.suspended and answer.checkpoint:
            task.left = answer

    def _finish(self, task: _Task, answer: Answer) -> None:
        with self._change:
            self._running.discard(task)
            wanted = not task.cancelled.is_set() and not self._closed
        task.over.set()
        if wanted and not isinstance(answer, Done):
            _hand_over(task, answer)
        elif isinstance(answer, Failure) and not task.cancelled.is_set():
            log.warning("%s", answer.message)


def _hand_over(task: _Task, answer: Progressed | Result | Failure) -> None:
    try:
        if task.on_result is not None:
            task.on_result(answer)
    except Exception:  # one job's bug must not take the worker from all others
        log.exception("the answer to %s could not be handed over", task.job.key)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """One that nobody else can enter, for a socket: to clear it away takes nothing that a waiting device must carry."""
    folder = Path(tempfile.mkdtemp(prefix="fedbeat-"))  # 0700
    try:
        yield folder
    finally:
        with suppress(OSError):
            for each in folder.iterdir():
                each.unlink()
            folder.rmdir()


class _Child:
    """One trainer process and the connection to it. Used by one thread. Raises ``ChildDied``."""

    def __init__(self, threads: int, nice: int, stacking: Stacking | None) -> None:
        self._stacking = stacking
        try:
            with _own_folder() as folder:
                address = str(folder / "trainer")
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(address)
                    server.listen(1)
                    server.settimeout(_POLL_S)
                    self._process = _start(address, threads, nice, stacking)
                    self._peer = self._accept(server)
        except OSError as error:
            raise ChildDied(f"it can't be started: {error}") from error

    def do(self, tasks: list[_Task], hopeless: Callable[[], bool], hear: Callable[[_Task, Answer], None]) -> None:
        """Have the child do the tasks; ``hear`` is given what it answers to each.

        Where one is cancelled the child is told; it is killed if it doesn't listen.
        """
        left = {task.job.key: task for task in tasks}
        deadlines: dict[str, float] = {}
        try:
            self._peer.send(*request([task.job for task in tasks], self._stacking))
            look_at = 0.0
            while left:
                if (now := time.monotonic()) >= look_at:  # not for each of a thousand answers at once
                    self._pass_on_cancels(left, deadlines, now)
                    look_at = now + _POLL_S
                if hopeless() or (deadlines and now > min(deadlines.values())):
                    raise ChildDied("it was stopped")
                if not self._peer.waits(_POLL_S):
                    continue
                answer = read_answer(self._peer.receive)
                if answer.key not in left:
                    raise ChildDied(f"it answered {answer.key!r} instead of {next(iter(left))!r}")
                task = left[answer.key]
                if not isinstance(answer, Progressed):
                    del left[answer.key]
                    deadlines.pop(answer.key, None)
                hear(task, answer)
        except (EOFError, OSError) as error:
            raise ChildDied(self._how(error)) from error
        except WireError as error:
            raise ChildDied(f"it said something else than an answer ({error})") from error

    def _pass_on_cancels(self, left: dict[str, _Task], deadlines: dict[str, float], now: float) -> None:
        """Tell the child what has been cancelled of what is ``left``, and note by when it should have listened."""
        for key, task in left.items():
            if key not in deadlines and task.cancelled.is_set():
                self._peer.send(*Cancel(key=key, keep=task.suspended).frames())
                deadlines[key] = now + CANCEL_S

    def ended(self) -> bool:
        """Whether the process is gone, killed for memory perhaps while it had nothing to do."""
        return self._process.poll() is not None or self._peer.waits()  # idle, it has nothing to say but its end

    def end(self) -> None:
        """Hang up, and see that the child ends."""
        self._peer.close()
        self._stop()

    def _accept(self, server: socket.socket) -> Frames:
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                peer, _ = server.accept()
            except TimeoutError:
                continue
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[0] == self._process.pid:
                return Frames(peer)
            peer.close()
        reason = self._how("it did not connect")
        self._stop()
        raise ChildDied(reason)

    def _how(self, otherwise: object) -> str:
        """How the process ended, where it has."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return str(otherwise)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _stop(self) -> None:
        self._process.kill()  # it keeps nothing that a hard end could damage
        self._process.wait()


def _start(address: str, threads: int, nice: int, stacking: Stacking | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  - our own module, no shell
        [sys.executable, "-m", "edge.trainer.child", address, str(threads), str(nice)],
        env={**os.environ, **child_environment(threads), **({} if stacking is None else _STACKED)},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is the agent's to handle; what it prints comes out with the agent's
    )


# A stack's activations are as large as all its devices': given back at every step they would cost more than the step.
_STACKED = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def child_environment(threads: int) -> dict[str, str]:
    """What a child's libraries read when they start. Large memory goes back to the system soon; threads are bounded.

    The thresholds are above what a small model's activations take: were those mapped and unmapped at every step, page
    faults would cost more than half of an epoch of ``ecg-beats``.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
    }

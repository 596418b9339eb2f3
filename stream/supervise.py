"""A small supervisor of processes for one asyncio program.

What it promises:

- Processes start side by side, each after those it names in ``after``, and stop in the opposite order: SIGTERM to the
  whole process group, SIGKILL after a grace period.
- A process that ends before it is ready makes :meth:`Supervisor.start` fail with the end of its log.
- A process that ends later is started again after a growing pause, and with it those that are ``part_of`` it, which
  are killed first: what they would take leave of is gone. When it ends too often the supervisor gives up with the end
  of its log.
- Nothing outlives the supervisor: see :mod:`stream.lifeline`.

Output goes line by line, with the time, into ``<logs>/<name>.log``; ``<name>.log.1`` holds what came before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from stream import lifeline

log = logging.getLogger(__name__)

GRACE_SECONDS = 15.0
CRASHES, CRASH_SECONDS = 5, 60.0
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
HEALTH_SECONDS, STRIKES = 5.0, 3
LOG_BYTES = 4 << 20
LONGEST_LINE = 8_192
TAIL_LINES = 20

#: Called with the name of a process and what became of it: starting, ready, crashed, restarted or stopped.
OnEvent = Callable[[str, str], None]


class ProcessFailed(RuntimeError):
    """A process did not become ready or ended too often. The message ends with the tail of its log."""

    def __init__(self, name: str, problem: str, path: Path, tail: Sequence[str]) -> None:
        self.name, self.problem = name, problem
        lines = "".join(f"\n  {line}" for line in tail) or " nothing"
        super().__init__(f"{name} {problem.rstrip('.')}. Its log, {path}, ends with:{lines}")


@dataclass(frozen=True)
class Process:
    """What to run. ``before`` is called ahead of every start and ``ready`` after it: it returns once the process does
    its work. ``healthy``, asked every few seconds from then on, tells whether it still does; one that lives and no
    longer works (three answers of no in a row) is ended and started again like one that crashed."""

    name: str
    argv: Sequence[str]
    env: dict[str, str]
    ready: Callable[[], Awaitable[None]]
    before: Callable[[], object] = lambda: None
    healthy: Callable[[], Awaitable[bool]] | None = None
    ready_seconds: float = 60.0
    after: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    ports: dict[str, int] = field(default_factory=dict)


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nothing listens on now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


async def poll(check: Callable[[], Awaitable[bool]], seconds: float = 0.05) -> None:
    """Return when ``check`` says so; an ``OSError`` in it means not yet."""
    while True:
        with contextlib.suppress(OSError):
            if await check():
                return
        await asyncio.sleep(seconds)


class Supervisor:
    """Runs the processes it is given. ``keep_open`` are descriptors that live as long as any of them, e.g. a lock.

    ``failed`` gets a :class:`ProcessFailed` when a process ends too often.
    """

    def __init__(self, logs: Path, on_event: OnEvent = lambda name, state: None, keep_open: Sequence[int] = ()) -> None:
        self.children: dict[str, Child] = {}
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._logs, self._on_event, self._keep_open = logs, on_event, keep_open
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._pipe, self._lifeline = os.pipe()

    async def start(self, processes: Sequence[Process]) -> None:
        """Start all; return when all are ready. After a :class:`ProcessFailed` some may run: call ``stop``."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self.children = {process.name: Child(process, self._logs) for process in processes}
        await _together(self._start_in_turn(child) for child in self.children.values())

    async def stop(self) -> None:
        """Stop all, the last first. A second call does nothing."""
        await self._drop(*self._keepers)
        await _together(self._stop_in_turn(child) for child in self.children.values())
        self.children = {}
        if self._lifeline >= 0:
            os.close(self._pipe)
            os.close(self._lifeline)
            self._lifeline = -1

    def kill(self) -> None:
        """End all at once, for the impatient: a ``stop`` under way has nothing left to wait for."""
        for child in self.children.values():
            child.send(signal.SIGKILL)

    async def _start_in_turn(self, child: Child) -> None:
        name = child.process.name
        for earlier in child.process.after:
            await self.children[earlier].is_ready.wait()
        self._on_event(name, "starting")
        await child.start(self._pipe, self._keep_open)
        self._keepers[name] = asyncio.create_task(self._keep(child))
        self._on_event(name, "ready")

    async def _stop_in_turn(self, child: Child) -> None:
        name = child.process.name
        for later in self.children.values():
            if name in later.process.after:
                await later.is_stopped.wait()
        if child.pid:
            await child.stop()
            self._on_event(name, "stopped")
        child.close()
        child.is_stopped.set()

    async def _keep(self, child: Child) -> None:
        """Start a process whenever it does not run, and those that are part of it when it runs again."""
        name = child.process.name
        parts = [other for other in self.children.values() if name in other.process.part_of]
        try:
            while True:
                if child.is_ready.is_set():
                    problem = await child.trouble()
                    await self._drop(*(part.process.name for part in parts))
                    await _together(part.stop(grace=0) for part in (*parts, child))
                else:
                    problem = await self._restart(child, parts)
                if problem:
                    self._on_event(name, "crashed")
                    pause = child.pause(problem)
                    log.warning("%s %s: starting it again in %.2g s (%s)", name, problem, pause, child.log)
                    await asyncio.sleep(pause)
        except ProcessFailed as error:
            if not self.failed.done():
                self.failed.set_exception(error)

    async def _restart(self, child: Child, parts: Sequence[Child]) -> str:
        """What went wrong, or nothing."""
        self._on_event(child.process.name, "starting")
        try:
            await child.start(self._pipe, self._keep_open)
        except ProcessFailed as error:
            return error.problem
        self._on_event(child.process.name, "restarted")
        for part in parts:
            log.warning("%s starts again, because %s did", part.process.name, child.process.name)
            self._keepers[part.process.name] = asyncio.create_task(self._keep(part))
        return ""

    async def _drop(self, *names: str) -> None:
        """Keep these no longer."""
        keepers = [self._keepers.pop(name) for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


class Child:
    """A process through its lives."""

    def __init__(self, process: Process, logs: Path) -> None:
        self.process = process
        self.log = logs / f"{process.name}.log"
        self.is_ready, self.is_stopped = asyncio.Event(), asyncio.Event()
        self._running: asyncio.subprocess.Process | None = None
        self._output: asyncio.Task[None] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._file = RotatingFileHandler(self.log, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        if self.log.stat().st_size:
            self._file.doRollover()

    @property
    def pid(self) -> int | None:
        return self._running.pid if self._running else None

    async def start(self, pipe: int, keep_open: Sequence[int]) -> None:
        """Return when it is ready. Raises :class:`ProcessFailed` when it ends before or takes too long."""
        self.process.before()
        output = await self._open_output()
        try:
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", lifeline.__file__, *self.process.argv, env=self.process.env,
                stdin=pipe, stdout=output, stderr=output, start_new_session=True, pass_fds=keep_open,
            )  # fmt: skip
        finally:
            os.close(output)
        self._write(f"--- {self.process.name} starts as process {self.pid}")
        problem = await self._get_ready()
        if problem:
            await self.stop()
            raise ProcessFailed(self.process.name, problem, self.log, self._tail)
        self.is_ready.set()

    async def _get_ready(self) -> str:
        """What went wrong, or nothing."""
        ready, end = asyncio.ensure_future(self.process.ready()), asyncio.create_task(self.end())
        try:
            await asyncio.wait({ready, end}, timeout=self.process.ready_seconds, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return f"{end.result()} before it was ready"
            if not ready.done():
                return f"was not ready after {self.process.ready_seconds:g} s"
            error = ready.exception()
            return f"did not become ready: {error or repr(error)}" if error else ""
        finally:
            ready.cancel()
            end.cancel()

    async def trouble(self) -> str:
        """Wait until it ends or no longer does its work, and say which."""
        tasks = [asyncio.create_task(self.end())]
        if self.process.healthy is not None:
            tasks.append(asyncio.create_task(self._sicken(self.process.healthy)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in tasks if task in done).result()
        finally:
            for task in tasks:
                task.cancel()

    async def _sicken(self, healthy: Callable[[], Awaitable[bool]]) -> str:
        strikes = 0
        while strikes < STRIKES:
            await asyncio.sleep(HEALTH_SECONDS)
            strikes = 0 if await healthy() else strikes + 1
        self.is_ready.clear()
        return "runs but no longer works"

    async def end(self) -> str:
        """Wait for the end of the process and say how it came, e.g. ``ended with SIGKILL``."""
        assert self._running is not None
        status = await self._running.wait()
        self.is_ready.clear()
        return f"ended with {signal.Signals(-status).name if status < 0 else f'status {status}'}"

    async def stop(self, grace: float = GRACE_SECONDS) -> None:
        """SIGTERM, then SIGKILL. Nothing of the process group is left after it."""
        self.is_ready.clear()
        if self._running is not None:
            self.send(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._running.wait()
            self.send(signal.SIGKILL)
            await self._running.wait()
            self._running = None
        if self._output is not None:  # what has left the group may still hold the pipe
            await asyncio.wait({self._output}, timeout=1.0)
            self._output.cancel()

    def close(self) -> None:
        """Close the log; the process is stopped."""
        self._file.close()

    def send(self, number: signal.Signals) -> None:
        """Send it to the whole process group."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def pause(self, problem: str) -> float:
        """Seconds to wait before the next start. Raises :class:`ProcessFailed` when there were too many."""
        now = time.monotonic()
        self._crashes.append(now)
        recent: list[float] = [crash for crash in self._crashes if now - crash < CRASH_SECONDS]
        if len(recent) == CRASHES:
            problem += f", its {CRASHES}th failure in {now - recent[0]:.0f} s"
            raise ProcessFailed(self.process.name, problem, self.log, self._tail)
        return min(PAUSE_SECONDS * 2.0 ** (len(recent) - 1), LONGEST_PAUSE_SECONDS)

    async def _open_output(self) -> int:
        """A descriptor to write to, line by line into the log. (With asyncio's own pipe, Python 3.11 would not notice
        the end of a process while a process that it started holds the pipe.)"""
        lines, output = os.pipe()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(lines, "rb")
        )
        self._output = asyncio.create_task(self._copy(reader))
        return output

    async def _copy(self, output: asyncio.StreamReader) -> None:
        pending = b""
        while chunk := await output.read(1 << 16):
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) > LONGEST_LINE:
                lines, pending = [*lines, pending], b""
            for line in lines:
                self._write(line.decode("utf-8", "replace"))
        if pending:
            self._write(pending.decode("utf-8", "replace"))

    def _write(self, line: str) -> None:
        line = line.rstrip()[:LONGEST_LINE]
        self._tail.append(line)
        self._file.emit(logging.makeLogRecord({"msg": line}))


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await all side by side; the first error ends the others before it is raised."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

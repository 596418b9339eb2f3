"""The embedded stack on the real broker and store, most of the time with a worker that only says it is ready."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_stack_supervise import session, until

from stream import stack as room
from stream.settings import Settings, running
from stream.stack import Interrupted, StackError, embedded_stack
from stream.supervise import ProcessFailed
from stream.topics import TOPICS, topic_partitions

FAKE_WORKER = """
import os, pathlib, time
home, number = pathlib.Path(os.environ["RADAR_HOME"]), os.environ["RADAR_WORKER_INDEX"]
(home / f"worker-{number}.env").write_text(os.environ["RADAR_BROKER"] + " " + os.environ["RADAR_PARTITIONS"])
(home / f"worker-{number}.ready").touch()
time.sleep(600)
"""
HOLDER = """
import asyncio, signal
from pathlib import Path
from stream import stack as room
from stream.settings import Settings
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
room.WORKER = {worker!r}
async def main():
    async with room.embedded_stack(Settings(home=Path({home!r}), triton="")) as stack:
        print("up", flush=True)
        {body}
    print("clean", flush=True)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    worker = (sys.executable, "-c", FAKE_WORKER)
    monkeypatch.setattr(room, "WORKER", worker)
    return worker


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", triton="", partitions=3, clickhouse_password="hidden-word")  # type: ignore[arg-type]


class Holder:
    """A process that holds a stack, and what the stack looked like when it was up."""

    def __init__(self, home: Path, worker: tuple[str, ...], body: str = "await stack.wait()") -> None:
        self.home = home
        code = HOLDER.format(home=str(home), worker=worker, body=textwrap.dedent(body))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def up(self) -> dict[str, Any]:
        assert self.process.stdout and self.process.stdout.readline() == "up\n", self.process.communicate()
        content: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return content

    def end(self) -> str:
        out, err = self.process.communicate(timeout=30)
        return out + err


def is_gone(home: Path, content: dict[str, Any]) -> bool:
    """No process, no port and no lock of a stack is left."""
    processes = content["processes"].values()
    with (home / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return not any(session(process["pid"]) for process in processes) and all(
        is_free(port) for process in processes for port in process["ports"].values()
    )


def about(pid: int | None, what: str) -> bytes:
    return Path(f"/proc/{pid}/{what}").read_bytes()


def is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.stack
async def test_a_stack_says_where_it_is_and_goes_without_a_trace(settings: Settings) -> None:
    events: list[tuple[str, str]] = []
    assert settings.brokers == ["127.0.0.1:9092"]
    async with embedded_stack(settings, workers=2, on_event=lambda *event: events.append(event)) as stack:
        assert stack.settings.brokers == [stack.settings.broker]
        assert await topic_partitions(stack.settings) == dict.fromkeys(TOPICS, 3)
        content = running(settings.home)
        assert content and set(content["processes"]) == {"broker", "store", "worker-0", "worker-1"}
        assert content["pid"] == os.getpid()
        assert content["processes"]["broker"]["pid"] == stack.pid("broker")
        there = Settings(home=settings.home)
        assert (there.broker, there.store, there.partitions) == (stack.settings.broker, stack.settings.store, 3)
        assert (settings.home / "worker-1.env").read_text() == f"{stack.settings.broker} 3"
    assert running(settings.home) is None and not (settings.home / "stack.json").exists()
    await until(lambda: is_gone(settings.home, content))
    assert sorted([name for name, state in events if state == "ready"][-2:]) == ["worker-0", "worker-1"]
    assert {name for name, state in events[-4:]} == set(content["processes"])


@pytest.mark.stack
async def test_secrets_stay_out_of_arguments_logs_and_the_file(settings: Settings) -> None:
    async with embedded_stack(settings) as stack:
        pids = [stack.pid(name) for name in ("broker", "store", "worker-0")]
        assert not any(b"hidden-word" in about(pid, "cmdline") for pid in pids)
        assert [b"hidden-word" in about(pid, "environ") for pid in pids] == [False, False, True]
        files = [settings.home / "stack.json", *(settings.home / "logs").iterdir()]
        assert not any("hidden-word" in file.read_text() for file in files)


@pytest.mark.stack
async def test_a_second_stack_on_the_same_home_is_refused(settings: Settings) -> None:
    async with embedded_stack(settings, workers=0):
        with pytest.raises(StackError, match=f"process {os.getpid()}.*kill {os.getpid()}.*RADAR_HOME"):
            async with embedded_stack(settings, workers=0):
                pass
        assert running(settings.home)
    async with embedded_stack(settings, workers=0):
        pass


@pytest.mark.stack
async def test_an_exception_in_the_block_passes_through_and_all_ends(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError):
        async with embedded_stack(settings):
            content = running(settings.home)
            _ = 1 / 0
    assert content
    await until(lambda: is_gone(settings.home, content))


@pytest.mark.stack
async def test_a_lost_broker_comes_back_with_its_topics_and_new_workers(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[tuple[str, str]] = []
    async with embedded_stack(settings, on_event=lambda *event: events.append(event)) as stack:
        broker, store, worker = (stack.pid(name) for name in ("broker", "store", "worker-0"))
        assert broker and worker
        with caplog.at_level(logging.WARNING):
            os.kill(broker, signal.SIGKILL)
            await until(lambda: ("worker-0", "restarted") in events)
        assert await topic_partitions(stack.settings) == dict.fromkeys(TOPICS, 3)
        assert stack.pid("store") == store and stack.pid("worker-0") != worker
        content = running(settings.home)
        assert content and content["processes"]["broker"]["pid"] == stack.pid("broker") != broker
    assert "The broker keeps its topics in memory: they are empty again" in caplog.text
    assert "worker-0 starts again, because broker did" in caplog.text


@pytest.mark.stack
async def test_a_worker_that_cannot_stay_up_ends_the_block(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = FAKE_WORKER.replace("time.sleep(600)", "time.sleep(0.2); raise SystemExit('flood of bad records')")
    monkeypatch.setattr(room, "WORKER", (sys.executable, "-c", dying))
    monkeypatch.setattr("stream.supervise.PAUSE_SECONDS", 0.01)
    with pytest.raises(
        ProcessFailed, match=r"worker-0 ended with status 1, its 5th failure[\s\S]*flood of bad records"
    ):
        async with embedded_stack(settings):
            content = running(settings.home)
            await asyncio.sleep(30)
    assert content
    await until(lambda: is_gone(settings.home, content))


@pytest.mark.stack
async def test_a_signal_outside_wait_interrupts_the_block(settings: Settings) -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        async with embedded_stack(settings, workers=0):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)
    task = asyncio.current_task()
    assert task and not task.cancelling()


@pytest.mark.stack
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_nothing_is_left_after_a_signal(
    tmp_path: Path, fake_worker: tuple[str, ...], number: signal.Signals
) -> None:
    holder = Holder(tmp_path, fake_worker)
    content = await asyncio.to_thread(holder.up)
    holder.process.send_signal(number)
    said = await asyncio.to_thread(holder.end)
    assert said == ("" if number == signal.SIGKILL else "clean\n")
    await until(lambda: is_gone(tmp_path, content))
    assert running(tmp_path) is None


@pytest.mark.stack
async def test_a_new_stack_waits_for_the_rest_of_a_killed_one(tmp_path: Path, fake_worker: tuple[str, ...]) -> None:
    holder = Holder(tmp_path, fake_worker)
    await asyncio.to_thread(holder.up)
    holder.process.kill()
    holder.process.wait()
    async with embedded_stack(Settings(home=tmp_path, triton="")) as stack:
        assert running(tmp_path) and stack.pid("store")
    await asyncio.to_thread(holder.end)


@pytest.fixture
def real_worker(monkeypatch: pytest.MonkeyPatch, fake_worker: tuple[str, ...]) -> Iterator[None]:
    monkeypatch.setattr(room, "WORKER", (sys.executable, "-m", "stream.worker"))
    yield


@pytest.mark.stack
async def test_the_whole_stack_gets_ready(tmp_path: Path, real_worker: None) -> None:
    async with embedded_stack(Settings(home=tmp_path)) as stack:
        content = running(tmp_path)
        assert content and set(content["processes"]) == {"broker", "store", "triton", "worker-0"}
        triton = stack.pid("triton")
        assert triton and len(session(triton)) >= 3  # server, watcher and the model's own process
    await until(lambda: is_gone(tmp_path, content))


async def test_a_missing_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="No version of 'demand'"):
        async with embedded_stack(Settings(home=tmp_path, model_repo=tmp_path)):
            pass
    assert not (tmp_path / "logs").exists()


def test_a_file_of_a_dead_stack_does_not_count(tmp_path: Path) -> None:
    assert running(tmp_path) is None
    with subprocess.Popen(["true"]) as dead:
        pass
    (tmp_path / "stack.json").write_text(json.dumps({"pid": dead.pid}))
    assert running(tmp_path) is None

"""The supervisor on small scripts: order, logs, restarts, giving up, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from stream import supervise
from stream.supervise import Process, ProcessFailed, Supervisor, free_ports, poll

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
Events = list[tuple[str, str]]


class Bench:
    """A supervisor whose processes are Python one-liners that are ready once ``<name>.up`` exists."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events = folder, Events()
        self.supervisor = Supervisor(folder / "logs", lambda name, state: self.events.append((name, state)))

    def process(self, name: str, code: str = SLEEP, **options: object) -> Process:
        mark = self.folder / f"{name}.up"

        async def is_up() -> bool:
            return mark.exists()

        code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n" + textwrap.dedent(code)
        env = dict(os.environ)
        options = {"before": lambda: mark.unlink(missing_ok=True), "ready": lambda: poll(is_up, 0.01), **options}
        return Process(name, [sys.executable, "-c", code], env, **options)  # type: ignore[arg-type]

    def pid(self, name: str) -> int:
        pid = self.supervisor.children[name].pid
        assert pid
        return pid

    def log(self, name: str) -> str:
        return self.supervisor.children[name].log.read_text()

    async def until(self, event: tuple[str, str], times: int = 1) -> None:
        await until(lambda: self.events.count(event) >= times)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.supervisor.stop()


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    async def check() -> bool:
        return true()

    await asyncio.wait_for(poll(check, 0.02), seconds)


def session(pid: int) -> list[int]:
    """Living processes of the session that ``pid`` led."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(leader) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


async def test_starts_in_order_and_stops_in_the_opposite_one(bench: Bench) -> None:
    worker = bench.process("worker", after=("broker", "store"))
    await bench.supervisor.start([worker, bench.process("broker"), bench.process("store")])
    assert bench.events.index(("worker", "starting")) > bench.events.index(("broker", "ready"))
    assert bench.events.index(("worker", "starting")) > bench.events.index(("store", "ready"))
    bench.events.clear()
    pids = [bench.pid(name) for name in ("worker", "broker", "store")]
    await bench.supervisor.stop()
    assert bench.events[0] == ("worker", "stopped")
    await until(lambda: not any(map(session, pids)))


async def test_output_goes_line_by_line_with_the_time_into_a_log(bench: Bench) -> None:
    await bench.supervisor.start([bench.process("one", f"print('中' * 20_000)\nprint('two')\n{SLEEP}")])
    await until(lambda: bench.log("one").endswith(" up\n"))
    lines = bench.log("one").splitlines()
    assert f"one starts as process {bench.pid('one')}" in lines[0]
    assert max(map(len, lines)) < 2 * supervise.LONGEST_LINE
    assert lines[-2].endswith(" two") and lines[-2][:4].isdecimal()


async def test_the_log_of_the_last_run_is_kept_aside(tmp_path: Path) -> None:
    for number in range(2):
        bench = Bench(tmp_path)
        await bench.supervisor.start([bench.process("one", f"print('run {number}', flush=True)\n{SLEEP}")])
        await until(lambda: " up\n" in bench.log("one"))  # noqa: B023
        await bench.supervisor.stop()
    assert "run 1" in (tmp_path / "logs/one.log").read_text()
    assert "run 0" in (tmp_path / "logs/one.log.1").read_text()


async def test_an_end_before_ready_shows_the_tail_of_the_log(bench: Bench) -> None:
    code = "import sys\nfor n in range(30): print('line', n, flush=True)\nsys.exit('no model here')"
    with pytest.raises(ProcessFailed) as failure:
        await bench.supervisor.start([bench.process("triton", code, ready=forever)])
    message = str(failure.value)
    assert message.startswith("triton ended with status 1 before it was ready")
    assert message.endswith("no model here") and "line 29" in message and "line 5\n" not in message
    assert str(bench.folder / "logs/triton.log") in message


async def test_a_program_that_is_not_there_is_named(bench: Bench) -> None:
    with pytest.raises(ProcessFailed, match="/no/such/program cannot be started: No such file"):
        await bench.supervisor.start([Process("ghost", ["/no/such/program"], {}, forever)])


async def test_a_process_that_does_not_get_ready_is_stopped(bench: Bench) -> None:
    with pytest.raises(ProcessFailed, match=r"one was not ready after 0\.3 s"):
        await bench.supervisor.start([bench.process("one", ready=forever, ready_seconds=0.3)])
    assert bench.supervisor.children["one"].pid is None


async def test_what_readiness_finds_is_reported(bench: Bench) -> None:
    async def wrong() -> None:
        raise RuntimeError("reviews has 3 partitions")

    with pytest.raises(ProcessFailed, match="broker did not become ready: reviews has 3 partitions"):
        await bench.supervisor.start([bench.process("broker", ready=wrong)])


async def test_a_crash_is_followed_by_a_restart_of_it_and_its_parts(bench: Bench) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
    worker = bench.process("worker", stubborn, after=("broker",), part_of=("broker",))
    await bench.supervisor.start([bench.process("broker"), bench.process("other"), worker])
    before = {name: bench.pid(name) for name in ("broker", "other", "worker")}
    os.kill(before["broker"], signal.SIGKILL)
    await bench.until(("worker", "restarted"))
    broker_first = [("broker", state) for state in ("crashed", "starting", "restarted")]
    assert bench.events[-5:] == [*broker_first, ("worker", "starting"), ("worker", "restarted")]
    assert bench.pid("other") == before["other"]
    assert bench.pid("worker") != before["worker"]
    await until(lambda: not session(before["worker"]))
    os.kill(bench.pid("worker"), signal.SIGKILL)
    await bench.until(("worker", "restarted"), 2)
    assert bench.events.count(("broker", "restarted")) == 1
    os.kill(bench.pid("worker"), signal.SIGKILL)  # so that the end of the test need not wait for it


async def test_too_many_crashes_end_it_with_the_tail_of_the_log(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "PAUSE_SECONDS", 0.01)
    code = "import sys, time; time.sleep(0.2); sys.exit('flood of bad records')"
    await bench.supervisor.start([bench.process("worker", code)])
    with pytest.raises(ProcessFailed, match=r"worker ended with status 1.*, its 5th failure in [\s\S]*flood of bad"):
        await asyncio.wait_for(bench.supervisor.failed, 20)


async def test_children_of_a_crashed_process_go_with_it(bench: Bench) -> None:
    family = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n{SLEEP}"
    await bench.supervisor.start([bench.process("triton", family)])
    pid = bench.pid("triton")
    await until(lambda: len(session(pid)) == 3)  # program, its child and the watcher
    os.kill(pid, signal.SIGKILL)
    await bench.until(("triton", "restarted"))
    await until(lambda: not session(pid))


async def test_sigkill_follows_sigterm(bench: Bench) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
    await bench.supervisor.start([bench.process("one", stubborn)])
    await until(lambda: " up\n" in bench.log("one"))
    pid = bench.pid("one")
    await bench.supervisor.children["one"].stop(grace=0.2)
    await until(lambda: not session(pid))


async def test_the_impatient_need_not_wait_for_sigterm(bench: Bench) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
    await bench.supervisor.start([bench.process("one", stubborn)])
    await until(lambda: " up\n" in bench.log("one"))
    pid, stop = bench.pid("one"), asyncio.create_task(bench.supervisor.stop())
    await asyncio.sleep(0.2)
    assert session(pid)
    bench.supervisor.kill()
    await asyncio.wait_for(stop, 5)
    await until(lambda: not session(pid))


async def test_a_cancelled_start_leaves_nothing(bench: Bench) -> None:
    start = asyncio.create_task(bench.supervisor.start([bench.process("one"), bench.process("two", ready=forever)]))
    await bench.until(("one", "ready"))
    pids = [bench.pid("one"), bench.pid("two")]
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    await bench.supervisor.stop()
    await until(lambda: not any(map(session, pids)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_nothing_outlives_the_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    """Whoever holds the supervisor is killed without a chance to clean up; SIGTERM-proof grandchildren included."""
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
    family = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}])\n{SLEEP}"
    program = f"""
        import asyncio, sys, pathlib
        from stream.supervise import Process, Supervisor
        async def at_once(): pass
        async def main():
            supervisor = Supervisor(pathlib.Path({str(tmp_path)!r}))
            await supervisor.start([Process("family", [sys.executable, "-c", {family!r}], {{}}, at_once)])
            print(supervisor.children["family"].pid, flush=True)
            await asyncio.Event().wait()
        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    holder = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert holder.stdout
    pid = int(await holder.stdout.readline())
    await until(lambda: len(session(pid)) == 3)
    await until(lambda: (tmp_path / "family.log").read_text().count(" up\n") == 2)
    holder.send_signal(number)
    await holder.wait()
    begun = time.monotonic()
    await until(lambda: not session(pid))
    assert time.monotonic() - begun < 4


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_process_that_lives_and_no_longer_works_is_started_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "HEALTH_SECONDS", 0.02)
    answers = [True, False, True, False, False, False]

    async def healthy() -> bool:
        return answers.pop(0) if answers else True

    await bench.supervisor.start([bench.process("server", healthy=healthy)])
    first = bench.pid("server")
    await bench.until(("server", "restarted"))
    assert bench.pid("server") != first
    assert not answers
    assert "no longer works" in bench.log("server") or ("server", "crashed") in bench.events

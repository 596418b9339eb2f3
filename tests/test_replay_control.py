"""A replay under somebody's hands, on the real broker: through the socket, the command and the keys of a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from click.testing import CliRunner
from test_replay import START, broker, click, consume, settings  # noqa: F401 (fixtures)
from test_replay_tape import Reel

from stream.cli import main
from stream.replay import Event, ReplaySummary, replay_events
from stream.replay.control import BadCommand, Control, NoControl, listen, send_command
from stream.replay.tape import Tape
from stream.settings import Settings

MINUTE = 60_000


def minutes(count: int) -> list[Event]:
    return [click(START + n * MINUTE, f"u{n}") for n in range(count)]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def there(settings: Settings) -> list[int]:  # noqa: F811
    """Times of the clicks in the topic now, in minutes, by time."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.brokers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.topic("clicks"), number) for number in range(settings.partitions)])
        found: list[int] = []
        while batch := await consumer.getmany(timeout_ms=300):
            values = [orjson.loads(record.value) for records in batch.values() for record in records]
            found += [(value["ts"] - START) // MINUTE for value in values if "ts" in value]
        return sorted(found)
    finally:
        await consumer.stop()


# Pure


async def test_the_socket_answers_each_line_and_is_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    control = Control()
    async with listen(control, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await asyncio.to_thread(send_command, path, "pause"))["state"] == "paused"
        assert control.paused
        with pytest.raises(BadCommand, match="there are status"):
            await asyncio.to_thread(send_command, path, "jump")
        with pytest.raises(NoControl, match="name another"):
            async with listen(control, path):
                pass
        assert (await asyncio.to_thread(send_command, path, "resume"))["state"] == "playing"
    assert not path.exists()
    with pytest.raises(NoControl, match="no replay listens"):
        send_command(path, "pause")


async def test_a_socket_that_a_killed_replay_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    async with listen(Control(), path):
        assert (await asyncio.to_thread(send_command, path, "status"))["state"] == "playing"


async def test_a_path_that_cannot_be_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoControl, match="--control"):
        async with listen(Control(), tmp_path / ("x" * 120)):
            pass


# On the broker


@pytest.mark.stack
async def test_pause_step_seek_and_stop(settings: Settings) -> None:  # noqa: F811
    tape = Tape(Reel(*minutes(100)), pane_ms=settings.pane_ms)
    control = Control(tape=tape, paused=True)
    summary = ReplaySummary()

    def sent(now: ReplaySummary) -> None:
        nonlocal summary
        summary = now

    task = asyncio.create_task(replay_events(tape, settings, progress=sent, control=control))
    await asyncio.sleep(0.2)
    assert (tape.position, summary.events) == (0, 0)
    control.command("step 3")
    await until(lambda: summary.events == 3)
    assert await there(settings) == [0, 1, 2]
    control.command("seek +1h")
    control.command("step 2")
    await until(lambda: summary.events == 5)
    assert await there(settings) == [0, 1, 2, 62, 63]
    assert control.command("stop")["state"] == "stopped"
    done = await asyncio.wait_for(task, 20)
    assert done.events == 5
    assert done.late == 0
    records = await consume(settings, ("chats",), done.heartbeats // 3)
    for received in records.values():  # it ends in order: all that was sent can be counted, and the clock is given back
        beats = [orjson.loads(record.value) for record in received]
        assert beats[-2]["heartbeat"] == beats[-1]["heartbeat"] > START + 63 * MINUTE + settings.session_gap_ms
        assert [beat["replay"] for beat in beats[-2:]] == [True, False]


@pytest.mark.stack
async def test_going_back_plays_again_later_and_nothing_is_late(settings: Settings) -> None:  # noqa: F811
    tape = Tape(Reel(*minutes(20)), pane_ms=settings.pane_ms)
    control = Control(tape=tape, paused=True)
    task = asyncio.create_task(replay_events(tape, settings, control=control))
    control.command("step 15")
    await until(lambda: not control.steps)
    await asyncio.sleep(0.2)
    control.command(f"seek {START + 10 * MINUTE}")
    control.command("resume")
    summary = await asyncio.wait_for(task, 20)
    assert summary.late == 0
    assert await there(settings) == [*range(25)]  # 10 to 19 come again a pane later


@pytest.mark.stack
async def test_the_speed_changes_and_a_seek_ends_a_wait(settings: Settings) -> None:  # noqa: F811
    tape = Tape(Reel(click(START), click(START + 24 * 60 * MINUTE), click(START + 24 * 60 * MINUTE + 1_000)))
    control = Control(speed=1, tape=tape)
    task = asyncio.create_task(replay_events(tape, settings, control=control))
    await until(lambda: tape.position == START)
    await asyncio.sleep(0.1)
    control.command("seek +1h")  # between the two: a day is not waited for
    control.command("speed 100")
    summary = await asyncio.wait_for(task, 20)
    assert summary.events == 3


@pytest.mark.stack
async def test_moved_events_that_lie_ahead_are_no_dead_letters(settings: Settings) -> None:  # noqa: F811
    ahead = int(time.time() * 1_000) + 86_400_000
    tape = Tape(Reel(click(START)), shift_to=ahead, pane_ms=settings.pane_ms)
    summary = await replay_events(tape, settings, control=Control(tape=tape))
    records = await consume(settings, ("clicks",), 1 + summary.heartbeats // 3)
    (record,) = [each for batch in records.values() for each in batch if each.key is not None]
    assert record.timestamp == orjson.loads(record.value)["ts"] > ahead - settings.pane_ms - 1


@pytest.mark.stack
async def test_remapped_topics_get_events_and_heartbeats(settings: Settings) -> None:  # noqa: F811
    other = settings.model_copy(update={"prefix": "elsewhere-"})
    await replay_events([], other)  # makes the topics
    summary = await replay_events(minutes(3), settings, remap={"clicks": other.topic("clicks")})
    found = await consume(other, ("clicks",), 3 + summary.heartbeats // 3)
    assert sum(record.key is not None for batch in found.values() for record in batch) == 3
    assert await there(settings) == []


# The commands themselves


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "what to replay"),
        (["--topics", "--simulate", "1"], "one of them"),
        (["--simulate", "1", "--offsets", "clicks/0:1-2"], "needs --topics"),
        (["--simulate", "1", "--namespace", "x", "--in-place"], "exclude each other"),
        (["--simulate", "1", "--kind", "views"], "there are reviews"),
        (["--simulate", "1", "--remap", "clicks"], "TOPIC=OTHER"),
        (["--simulate", "1", "--speed", "0"], "positive number"),
        (["--simulate", "1", "--from", "yesterday"], "cannot read"),
        (["--simulate", "1", "--namespace", "A b"], "small letters"),
        (["--clean", "../x"], "small letters"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(main, ["replay", *arguments])
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())


def test_a_dry_run_needs_no_server(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        main, ["replay", "--simulate", "1", "--kind", "purchase", "--dry-run", "--loop", "--json"],
        env={"RADAR_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.exit_code == 0
    found = orjson.loads(done.stdout)
    assert set(found["topics"]) == {"catalog", "clicks"}
    assert found["kinds"] == {"purchase": found["topics"]["clicks"]}


def environment(home: Path, broker: str) -> dict[str, str]:  # noqa: F811
    return {
        "PATH": "/usr/bin:/bin",
        "RADAR_HOME": str(home),
        "RADAR_BROKER": broker,
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }


def radar(home: Path, broker: str, *arguments: str) -> subprocess.CompletedProcess[str]:  # noqa: F811
    return subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments],
        env=environment(home, broker), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.stack
def test_replay_control_and_the_keys_of_a_terminal(broker: str, tmp_path: Path) -> None:  # noqa: F811
    """To topics that nobody reads, so that no worker is needed."""
    asyncio.run(replay_events([], Settings(broker=broker, prefix="keys-")))
    names = [f"--remap={topic}=keys-{topic}" for topic in ("reviews", "chats", "clicks", "catalog")]
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "stream.cli", "replay", "--simulate", "1", "--speed", "1", "--loop", *names, "--json"],
        env=environment(tmp_path, broker), stdin=terminal, stdout=subprocess.PIPE, stderr=terminal,
        preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(terminal)
    try:
        deadline = time.monotonic() + 40
        while (
            answer := radar(tmp_path, broker, "replay-control", "status")
        ).returncode and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answer.returncode == 0, answer.stderr

        def state() -> str:
            return str(orjson.loads(radar(tmp_path, broker, "replay-control", "status").stdout)["state"])

        os.write(master, b" ")
        while state() != "paused" and time.monotonic() < deadline:
            pass
        assert state() == "paused"
        assert radar(tmp_path, broker, "replay-control", "seek", "--", "-2").returncode == 2
        moved = orjson.loads(radar(tmp_path, broker, "replay-control", "seek", "+30m").stdout)
        assert moved["state"] == "paused"
        os.write(master, b"q")
        output, _ = process.communicate(timeout=30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(master)
    assert orjson.loads(output)["complete"]
    assert radar(tmp_path, broker, "replay-control", "pause").returncode == 3


def take_terminal() -> None:
    """Make the terminal on stdin this process's own."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

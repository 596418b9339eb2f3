"""A replay under somebody's hands while it runs: pause, resume, step, seek, speed, stop.

:class:`Control` is the state and understands commands as text; the sender asks it between events. Commands come from
the keyboard (:func:`keyboard`) and, one a line, from programs through a unix socket that only this user may open
(:func:`listen`); every command is answered by one JSON object. ``radar replay-control`` is such a program.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from stream.alerts import UNITS_MS, since_ms
from stream.replay.tape import Tape

KEYS: Final = {
    " ": "toggle", "s": "step 1", "f": "seek +1h", "b": "seek -1h", "+": "faster", "-": "slower", "q": "stop",
}  # fmt: skip
HELP: Final = "space pause/resume, s step, f/b seek an hour, +/- speed, q stop"
COMMANDS: Final = "status, pause, resume, step N, seek TIME (or +10m, -2h), speed FACTOR (or max), stop"
ANSWER_SECONDS: Final = 10.0


class BadCommand(ValueError):
    """Not a command; the message says what is one."""


class NoControl(RuntimeError):
    """Nobody can be heard at that socket, or nobody listens; the message says what to do."""


class Control:
    """What the replay is to do. ``tape`` is wound by ``seek``; without one there is nothing to seek in."""

    def __init__(self, speed: float | None = None, tape: Tape | None = None, paused: bool = False) -> None:
        self.speed = speed  # times real time; None: as fast as it goes
        self.paused = paused
        self.steps = 0  # events to send although it is paused
        self.stopped = False
        self.version = 0  # grows with every command
        self.turn = 0  # grows when the tape is wound: an event in hand is not to be sent any more
        self.attentive = paused or speed is not None  # whether it is to be asked before the next event
        self.tape = tape
        self._changed = asyncio.Event()

    @property
    def moved(self) -> bool:
        """Whether event times are other than recorded."""
        return self.tape is not None and self.tape.shift != 0

    async def changed(self, seconds: float | None = None) -> None:
        """Return at the next command, or after so many seconds."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def command(self, line: str) -> dict[str, Any]:
        """Do what ``line`` says; the state after it. Raises :class:`BadCommand`."""
        name, _, argument = line.strip().partition(" ")
        argument = argument.strip()
        if name == "pause":
            self.paused, self.steps = True, 0
        elif name == "resume":
            self.paused = False
        elif name == "toggle":
            self.paused, self.steps = not self.paused, 0
        elif name == "step":
            self._step(argument or "1")
        elif name == "seek":
            self._seek(argument)
        elif name == "speed":
            self.speed = read_speed(argument)
        elif name in ("faster", "slower"):
            if self.speed is not None:
                self.speed = self.speed * 2 if name == "faster" else self.speed / 2
        elif name == "stop":
            self.stopped = True
        elif name != "status":
            raise BadCommand(f"{name!r} is no command; there are {COMMANDS}")
        if name != "status":
            self.version += 1
            self.attentive = self.paused or self.stopped or self.speed is not None
            self._changed.set()
        return self.state()

    def state(self) -> dict[str, Any]:
        tape = self.tape
        where = (
            {"position": tape.position, "clock": tape.clock, "shift": tape.shift, "round": tape.round} if tape else {}
        )
        doing = "stopped" if self.stopped else "paused" if self.paused else "playing"
        return {"state": doing, "speed": self.speed or "max", "steps": self.steps, **where}

    def _step(self, count: str) -> None:
        if not count.isdecimal() or int(count) < 1:
            raise BadCommand(f"step {count!r}: how many events, a whole number from 1 up")
        self.paused = True
        self.steps += int(count)

    def _seek(self, to: str) -> None:
        if self.tape is None:
            raise BadCommand("there is nothing to seek in")
        if by := re.fullmatch(r"([+-])(\d+)([smhdw])", to):
            ts = self.tape.position + int(f"{by[1]}{by[2]}") * UNITS_MS[by[3]]
        else:
            try:
                ts = since_ms(to, int(time.time() * 1_000))
            except ValueError as error:
                raise BadCommand(f"{error}, or +10m, -2h from where it is") from None
        self.turn += 1
        self.tape.seek(ts)


def read_speed(text: str) -> float | None:
    """A positive factor of real time; None for ``max``. Raises :class:`BadCommand`."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise BadCommand(f"speed {text!r}: a positive number, times real time, or max")
    return speed


@asynccontextmanager
async def listen(control: Control, path: Path) -> AsyncIterator[None]:
    """Obey the programs that connect to a unix socket at ``path``. Raises :class:`NoControl`."""
    if await _answers(path):
        raise NoControl(f"{path} belongs to a replay that runs: name another socket with --control")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # noqa: ASYNC240 (of one that was killed)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            async for line in reader:
                try:
                    answer = control.command(line.decode())
                except ValueError as error:  # BadCommand, or no UTF-8
                    answer = {"error": str(error)}
                writer.write(orjson.dumps(answer) + b"\n")
                await writer.drain()

    mask = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(serve, path)
    except OSError as error:
        raise NoControl(f"no socket at {path}: {error}; name another with --control") from error
    finally:
        os.umask(mask)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def send_command(path: Path, line: str) -> dict[str, Any]:
    """Tell the replay that listens at ``path``; its answer. Raises :class:`NoControl` and :class:`BadCommand`."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(line.encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer: dict[str, Any] = orjson.loads(answers.readline())
    except (OSError, orjson.JSONDecodeError) as error:
        raise NoControl(f"no replay listens at {path} ({error}): start one with radar replay --control") from error
    if "error" in answer:
        raise BadCommand(answer["error"])
    return answer


@contextmanager
def keyboard(control: Control, told: Callable[[dict[str, Any]], None] = lambda state: None) -> Iterator[bool]:
    """Obey single keys (:data:`KEYS`) while stdin is a terminal; False where it is none."""
    if not _in_foreground():
        yield False
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        for key in os.read(terminal, 64).decode(errors="ignore"):
            if key in KEYS:
                told(control.command(KEYS[key]))

    tty.setcbreak(terminal)
    loop.add_reader(terminal, pressed)
    try:
        yield True
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _in_foreground() -> bool:
    """Whether keys that are pressed are ours."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal, or closed
        return False

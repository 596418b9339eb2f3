"""Runs a program that must not outlive whoever started it, not even when that one is killed with SIGKILL.

    python -I -S stream/lifeline.py PROGRAM ARGUMENT…        with a pipe as standard input

The starter holds the other end of the pipe and gives the program a process group of its own. This process forks a
watcher and then becomes the program, so process id, exit status and signals are the program's. The watcher waits for
the end of the pipe, which the kernel brings about when the starter ends in whatever way, and takes the group down:
SIGTERM, and SIGKILL once the program has ended or its grace is over. While the starter lives it is the starter who
clears the group away; the watcher takes no notice of signals.

Imports nothing but the system's modules: it is started once for every process of a stack.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 5.0


def watch(program: int) -> None:
    """Wait for the end of the pipe on standard input, then end the process group."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 1)  # the program's output ends with the program
    os.dup2(silence, 2)
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while os.getppid() == program and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


def become(argv: list[str]) -> None:
    """Turn into the program, with nothing to read on standard input."""
    silence = os.open(os.devnull, os.O_RDONLY)
    os.dup2(silence, 0)
    os.close(silence)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.exit(f"{argv[0]} cannot be started: {error.strerror}")


if __name__ == "__main__":
    program = os.getpid()
    if os.fork():
        become(sys.argv[1:])
    watch(program)

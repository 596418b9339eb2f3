"""What the benches that run real workers share: a store, a broker, and the workers themselves."""

from __future__ import annotations

import asyncio
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stream.settings import Settings
from stream.stack import WORKER, embedded_stack, environment


@asynccontextmanager
async def servers(broker: str, **settings: Any) -> AsyncIterator[Settings]:
    """A store and a broker: ``embedded`` (Tansu) or ``apache`` (Kafka, as the tests start it). Nothing scores texts."""
    with tempfile.TemporaryDirectory() as home:
        ours = Settings(home=Path(home), triton="", idle_seconds=0, **settings)
        async with embedded_stack(ours, workers=0) as stack:
            if broker == "embedded":
                yield stack.settings
                return
            from tests.servers import start_kafka

            with start_kafka(Path(home) / "kafka") as kafka:
                yield stack.settings.model_copy(update={"broker": kafka.address})


@asynccontextmanager
async def workers(settings: Settings, count: int) -> AsyncIterator[list[Process]]:
    """So many workers, from the moment all are ready; they are told to end afterwards."""
    with (settings.home / "worker.log").open("wb") as output:
        numbered = [environment(settings) | {"RADAR_WORKER_INDEX": str(number)} for number in range(count)]
        running = [await asyncio.create_subprocess_exec(*WORKER, env=each, stderr=output) for each in numbered]
    try:
        while not all((settings.home / f"worker-{number}.ready").exists() for number in range(count)):
            alive(settings, running)
            await asyncio.sleep(0.02)
        yield running
    finally:
        for worker in running:
            if worker.returncode is None:
                worker.terminate()
            await worker.wait()


def alive(settings: Settings, running: Iterable[Process]) -> None:
    """Raises ``RuntimeError`` with the end of the log when a worker has ended."""
    if any(worker.returncode is not None for worker in running):
        raise RuntimeError(f"a worker ended: {tail(settings)}")


def tail(settings: Settings) -> str:
    """The end of the workers' log."""
    return (settings.home / "worker.log").read_text(errors="replace")[-2_000:]

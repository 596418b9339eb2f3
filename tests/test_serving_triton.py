"""The client against the embedded Triton: the same scores as in process, death and return, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from serving.client import TritonScorer
from serving.embedded import triton_command, wait_ready
from serving.errors import ScorerUnavailable, ScoringError
from serving.local import LocalScorer
from stream.settings import Settings

pytestmark = pytest.mark.stack

REPO = Settings().model_repo
TEXTS = ["包装破损，快递太慢了！", "很好", "", "The size is too small 😀", "客服一直不回复，我要退款！" * 9]


class Server:
    """One embedded Triton on ports of its own."""

    def __init__(self, home: Path, model: str = "demand") -> None:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        self.port, *others = (door.getsockname()[1] for door in sockets)
        for door in sockets:
            door.close()
        self.command = lambda: triton_command(REPO, model, self.port, *others, home)
        self.log = home / "triton.log"
        self.start()

    def start(self) -> None:
        self.argv, environment = self.command()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.argv, env=environment, stdout=log, stderr=log, start_new_session=True)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(15)

    def kill(self) -> None:
        """Like a machine that runs out of memory; then clear away the model's process, which would wait forever."""
        self.process.kill()
        self.process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def leftovers(self) -> list[str]:
        """Processes and shared memory of this server that still exist."""
        mark = f"radar-triton-{self.port}-"
        processes = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _content(path)]
        return [*map(str, processes), *map(str, Path("/dev/shm").glob(f"{mark}*"))]


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("triton"))
    try:
        yield server
    finally:
        server.stop()
    give_up = time.monotonic() + 10
    while server.leftovers() and time.monotonic() < give_up:
        time.sleep(0.1)
    assert server.leftovers() == []


def open_scorer(server: Server, deadline: float = 60.0) -> TritonScorer:
    return TritonScorer(f"127.0.0.1:{server.port}", REPO, deadline=deadline)


async def test_same_scores_as_in_process(server: Server) -> None:
    async with open_scorer(server) as triton, LocalScorer(REPO) as local:
        await wait_ready(triton, alive=server.alive)
        texts = TEXTS + [f"第{i}件商品{'不错' * (i % 7)}" for i in range(150)]
        assert await triton.score(texts) == await local.score(texts)
        assert triton.model == local.model


async def test_the_small_model_is_served_in_the_place_of_the_full_one(tmp_path: Path) -> None:
    server = Server(tmp_path, "demand_small")
    try:
        small = TritonScorer(f"127.0.0.1:{server.port}", REPO, "demand_small", deadline=60)
        async with small, LocalScorer(REPO, "demand_small") as local, open_scorer(server) as full:
            await wait_ready(small, alive=server.alive)
            assert await small.score(TEXTS) == await local.score(TEXTS)
            assert small.model.startswith("demand_small/1@")
            with pytest.raises(ScoringError, match="demand"):
                await full.score(TEXTS)
    finally:
        server.stop()


def test_it_listens_on_loopback_alone(server: Server) -> None:
    ports = {f"{int(argument.rpartition('=')[2]):04X}" for argument in server.argv if "-port=" in argument}
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {fields[1] for fields in sockets if fields[3] == "0A" and fields[1].rpartition(":")[2] in ports}
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}


async def test_death_is_noticed_and_return_too(server: Server) -> None:
    async with open_scorer(server) as scorer:
        await wait_ready(scorer, alive=server.alive)
        before = await scorer.score(TEXTS)
        work = asyncio.create_task(scorer.score([f"第{i}件商品太小了" for i in range(2000)]))
        await asyncio.sleep(0.5)
        server.kill()
        with pytest.raises(ScorerUnavailable):
            await work
        for _ in range(3):
            with pytest.raises(ScorerUnavailable):
                await scorer.score(TEXTS)
        assert scorer.breaker.state == "open"

        server.start()
        give_up = time.monotonic() + 60
        while True:
            try:
                after = await scorer.score(TEXTS)
                break
            except ScorerUnavailable as error:
                assert time.monotonic() < give_up, f"{error}; alive: {server.alive()}; {server.log.read_text()[-3000:]}"
                await asyncio.sleep(error.retry_in or 0.1)
        assert after == before
        assert scorer.breaker.state == "closed"


async def test_a_dead_model_process_is_noticed(server: Server) -> None:
    """Triton calls the model ready all the same, and does not start its process again."""
    async with open_scorer(server) as scorer:
        await wait_ready(scorer, alive=server.alive)
        stub = next(left for left in server.leftovers() if "backend_stub" in _content(Path(left)))
        os.kill(int(Path(stub).parent.name), signal.SIGKILL)
        with pytest.raises(ScorerUnavailable):
            await scorer.score(TEXTS)
        assert not await scorer.ready(5)
    server.kill()
    server.start()


async def test_a_deadline_ends_the_wait(server: Server) -> None:
    async with open_scorer(server) as patient, open_scorer(server, deadline=0.02) as hasty:
        await wait_ready(patient, alive=server.alive)
        with pytest.raises(ScoringError) as caught:
            await hasty.score([f"第{i}件商品太小了" for i in range(500)])
        assert caught.value.again
        assert len(await patient.score(TEXTS)) == len(TEXTS)


async def test_an_unknown_model_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(REPO / "demand")
    async with open_scorer(server) as scorer:
        await wait_ready(scorer, alive=server.alive)
    async with TritonScorer(f"127.0.0.1:{server.port}", tmp_path, "other") as scorer:
        with pytest.raises(ScoringError, match="other") as caught:
            await scorer.score(TEXTS)
        assert not caught.value.again

"""What several test modules compare with and write to, made once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sites import Site, Tables


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kafka: runs Apache Kafka itself; `make test-kafka`, needs java and mvn")


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """What the embedded stack makes of the events of a site."""
    from sites import COMMON, contents, feed

    from stream.settings import Settings
    from stream.sinks import open_sink
    from stream.stack import embedded_stack

    async def work() -> Tables:
        settings = Settings(home=tmp_path_factory.mktemp("embedded"), **COMMON)
        async with embedded_stack(settings) as stack:
            await feed(stack.settings)
            sink = open_sink(stack.settings)
            await sink.open()
            try:
                return await contents(sink)
            finally:
                await sink.close()

    return asyncio.run(work())


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Triton, and ClickHouse or else a chDB store; the broker is for the module to add."""
    from servers import CLICKHOUSE, Server, is_old, kafka_tool, start_clickhouse, start_triton
    from sites import COMMON, Site

    from stream.settings import Settings
    from stream.supervise import free_ports

    kafka_tool("")  # nothing to store without
    home = tmp_path_factory.mktemp("stores")
    with ExitStack() as servers:
        triton = servers.enter_context(start_triton(home / "triton", Settings().model_repo, Settings().model))
        settings = {**COMMON, "triton": triton.address}
        if CLICKHOUSE:
            store = servers.enter_context(start_clickhouse(home / "clickhouse"))
            settings |= {"sink": "clickhouse", "clickhouse": store.address, "clickhouse_user": "radar"}
            settings["clickhouse_password"] = "sesame"
            yield Site(settings, is_old(store))
        else:
            (port,) = free_ports(1)
            argv = [sys.executable, "-m", "stream.sinks.chdb", "--path", str(home / "chdb"), "--port", str(port)]
            store = servers.enter_context(Server(home / "store", argv, port))
            yield Site({**settings, "sink": "chdb", "store": f"http://{store.address}"}, False)

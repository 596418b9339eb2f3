"""Topics, tables and workers that belong to one replay, so that nothing that is in production is touched.

A namespace ``replay-NAME`` has topics and a consumer group with the prefix ``replay-NAME-``, a database
``<database>_replay_NAME`` beside the one of the settings, and ``<home>/replays/replay-NAME`` for what its workers say.
All of it carries the word ``replay``, and :func:`clean` removes nothing that does not. Consumer groups are left to the
broker, which forgets those that nobody uses.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final

from stream.alerts import StoppedStore, source
from stream.replay.events import TOPICS
from stream.settings import Settings
from stream.sinks.base import SinkUnavailable
from stream.stack import WORKER, WORKER_SECONDS, environment
from stream.supervise import OnEvent, Process, Supervisor, poll
from stream.topics import BrokerAway, admin, ensure_topics

WORD: Final = "replay-"


class BadNamespace(ValueError):
    """Not the name of a namespace, or not one that may be written to; the message says what to do."""


def fresh_name(now: datetime) -> str:
    return f"{WORD}{now:%Y%m%d-%H%M%S}"


def full_name(name: str) -> str:
    """``replay-NAME`` for ``NAME``. Raises :class:`BadNamespace`."""
    name = name.removeprefix(WORD)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 60:
        raise BadNamespace(f"namespace {name!r}: small letters, digits and single hyphens between them, at most 60")
    return WORD + name


def settings_in(settings: Settings, name: str) -> Settings:
    """The same servers, but topics, tables and files of the namespace. Raises :class:`BadNamespace`."""
    name = full_name(name)
    return settings.model_copy(
        update={
            "prefix": f"{name}-",
            "database": f"{settings.database}_{name.replace('-', '_')}",
            "home": settings.home / "replays" / name,
            "idle_seconds": 0.0,
        }
    )


def check_apart(read: Settings, written: Iterable[str]) -> None:
    """Raises :class:`BadNamespace` where a replay would feed the topics that it reads."""
    own = {read.topic(topic) for topic in TOPICS}
    if same := sorted(own.intersection(written)):
        raise BadNamespace(
            f"{', '.join(same)}: read from and written to, so all would be there twice. Choose another --namespace or "
            "--remap, or say --in-place if that is what you want."
        )


@asynccontextmanager
async def workers(settings: Settings, count: int, on_event: OnEvent = lambda name, state: None) -> AsyncIterator[None]:
    """``count`` workers of a namespace that have their partitions, for the length of the block.

    Raises :class:`~stream.supervise.ProcessFailed` when one does not get ready.
    """
    await ensure_topics(settings)
    for path in settings.home.glob("worker-*.*"):
        path.unlink(missing_ok=True)
    supervisor = Supervisor(settings.home / "logs", on_event)
    try:
        await supervisor.start([_worker(settings, number) for number in range(count)])
        yield
    finally:
        await supervisor.stop()


def _worker(settings: Settings, number: int) -> Process:
    ready = settings.home / f"worker-{number}.ready"

    async def is_ready() -> bool:
        return ready.exists()

    return Process(
        f"worker-{number}",
        WORKER,
        environment(settings) | {"RADAR_WORKER_INDEX": str(number)},
        ready=lambda: poll(is_ready),
        before=partial(ready.unlink, missing_ok=True),
        ready_seconds=WORKER_SECONDS,
    )


async def clean(settings: Settings, name: str) -> dict[str, Any]:
    """Remove topics, tables and files of a namespace; what was there. A second call finds nothing.

    Raises :class:`BadNamespace`, and what a broker or a store that refuses raises.
    """
    own = settings_in(settings, name)
    assert own.prefix.startswith(WORD) and WORD.replace("-", "_") in own.database
    topics = await _clean_topics(own)
    database = await _clean_database(settings, own.database)
    files = own.home.is_dir()
    await asyncio.to_thread(shutil.rmtree, own.home, ignore_errors=True)
    return {
        "namespace": full_name(name),
        "topics": topics,
        "database": own.database if database else "",
        "files": files,
    }


async def _clean_topics(own: Settings) -> int:
    try:
        async with admin(own) as client:
            topics = [topic for topic in await client.list_topics() if topic.startswith(own.prefix)]
            if topics:
                await client.delete_topics(topics)
            return len(topics)
    except BrokerAway:  # the embedded broker forgets its topics when it stops
        return 0


async def _clean_database(settings: Settings, database: str) -> bool:
    try:
        async with source(settings) as store:
            if database not in await _databases(store):
                return False
            await _ask(store, f"DROP DATABASE `{database}`")
            return True
    except SinkUnavailable:
        return False


async def namespaces(settings: Settings) -> list[str]:
    """Those that have tables, oldest first where the name is a time."""
    begin = f"{settings.database}_{WORD.replace('-', '_')}"
    async with source(settings) as store:
        found = [name for name in await _databases(store) if name.startswith(begin)]
    return sorted(WORD + name.removeprefix(begin).replace("_", "-") for name in found)


async def _databases(store: Any) -> list[str]:
    return [row["name"] for row in await _ask(store, "SELECT name FROM system.databases")]


async def _ask(store: Any, sql: str) -> list[dict[str, Any]]:
    if isinstance(store, StoppedStore):
        from stream.sinks.chdb import query_directory

        return await asyncio.to_thread(query_directory, store.path, sql, "default")
    rows: list[dict[str, Any]] = await store.query(sql)
    return rows

"""``radar doctor``: looks at everything a worker depends on and says what to do about what is not well.

Every check asks the thing itself, as a worker would: the broker for its topics, Triton for the score of a known text,
the store for its tables. A check that fails, or that takes too long, never keeps the others from running. Looking
changes nothing, except that the store gets the tables it lacks, as it would from the first worker.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import re
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError
from rich.markup import escape
from rich.table import Table
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving.card import read_card
from serving.client import TritonScorer
from serving.errors import ScoringError
from serving.local import LocalScorer
from serving.scorer import Scorer
from stream.events import SOURCES
from stream.security import client_security
from stream.settings import Settings, running
from stream.sinks import open_sink
from stream.sinks.base import SinkError
from stream.topics import TOPICS, BrokerAway, TopicsError, admin, topic_partitions

CHECK_SECONDS = 20.0
DISK_BYTES = 1 << 30
SHARED_BYTES = 64 << 20
PYTHONS = ((3, 11), (3, 13))


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``remedy`` says what to do where it is not ``ok``."""

    name: str
    ok: bool
    version: str = ""
    detail: str = ""
    remedy: str = ""


async def examine(settings: Settings) -> list[Check]:
    """All checks, side by side, in the order in which things depend on each other."""
    rooms = (_python, _packages, _machine, _model, _stack, _kafka, _triton, _store)
    noisy = logging.getLogger("aiokafka")
    level, noisy.level = noisy.level, logging.CRITICAL
    try:
        found = await asyncio.gather(*(_within_limits(room, settings) for room in rooms))
    finally:
        noisy.level = level
    return [check for checks in found for check in checks]


def as_json(checks: list[Check]) -> list[dict[str, Any]]:
    return [asdict(check) for check in checks]


def as_table(checks: list[Check]) -> Table:
    """For a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "check", "version", "what was found"):
        table.add_column(title, no_wrap=title == "check", overflow="fold")
    for check in checks:
        sign = "[green]ok[/]" if check.ok else "[bold red]!![/]"
        remedy = "" if check.ok else f"\n[bold]{escape(check.remedy)}[/]"
        table.add_row(sign, check.name, escape(check.version), escape(check.detail) + remedy)
    return table


async def _within_limits(room: Callable[[Settings], Awaitable[list[Check]]], settings: Settings) -> list[Check]:
    name = room.__name__.removeprefix("_")
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await room(settings)
    except TimeoutError:
        return [Check(name, False, "", f"no answer within {CHECK_SECONDS:g} s", "Is the server overloaded or stopped?")]
    except Exception as error:
        return [Check(name, False, "", f"{type(error).__name__}: {error}", "Unexpected: look at the message.")]


async def _python(settings: Settings) -> list[Check]:
    low, high = ("{}.{}".format(*python) for python in PYTHONS)
    ok = PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]
    version = ".".join(map(str, sys.version_info[:3]))
    return [Check("python", ok, version, sys.executable, f"Use Python {low} to {high}; 3.11 is the tested one.")]


async def _packages(settings: Settings) -> list[Check]:
    """The packages of pyproject.toml, and numpy, which Triton's python backend misreads from version 2 on."""
    required = [line for line in importlib.metadata.requires("demand-radar") or [] if "extra ==" not in line]
    names = [re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in required]
    versions: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(name=None):
        versions.setdefault(_normal(distribution.name), distribution.version)
    missing = [name for name in names if _normal(name) not in versions]
    there = ", ".join(f"{name} {versions[_normal(name)]}" for name in names if name not in missing)
    return [
        Check(
            "packages",
            not missing,
            f"{len(names) - len(missing)} of {len(names)}",
            f"missing: {', '.join(missing)}" if missing else there,
            "Install them: make setup",
        ),
        Check(
            "numpy",
            int(np.__version__.partition(".")[0]) < 2,
            np.__version__,
            "Triton's python backend needs numpy below 2",
            "pip install 'numpy<2'",
        ),
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


async def _machine(settings: Settings) -> list[Check]:
    return [_disk(settings.home.absolute()), *_shared_memory(Path("/dev/shm"))]


def _disk(home: Path) -> Check:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    remedy = "Make room, or set RADAR_HOME to a folder on a larger disk."
    return Check("disk", free >= DISK_BYTES, "", f"{free / 1e9:.1f} GB free for {home}", remedy)


def _shared_memory(folder: Path) -> list[Check]:
    """Containers get 64 MB by default; not every system has it."""
    if not folder.is_dir():
        return []
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e6:.0f} MB free in {folder}, through which Triton talks to its models"
    remedy = "Remove old files there; in a container, start it with --shm-size=256m."
    return [Check("shared memory", free >= SHARED_BYTES, "", detail, remedy)]


async def _model(settings: Settings) -> list[Check]:
    try:
        card = read_card(settings.model_repo, settings.model)
    except ScoringError as error:
        return [Check("model", False, "", str(error), "Train and export one: make train-smoke, or make train.")]
    size = card.model_file.stat().st_size / 1e6
    return [Check("model", True, card.title, f"{card.model_file}, {size:.0f} MB, up to {card.max_length} tokens")]


async def _stack(settings: Settings) -> list[Check]:
    """The embedded stack's processes and ports, if one runs here."""
    content = running(settings.home)
    if content is None:
        return [Check("stack", True, "", f"none runs in {settings.home} ('radar up' starts one)")]
    deaf = [
        f"{name}'s {use} port {port}"
        for name, process in content["processes"].items()
        for use, port in process["ports"].items()
        if not await _accepts(port)
    ]
    detail = f"process {content['pid']} since {content['started_at']}: {', '.join(content['processes'])}"
    ports = f"no answer: {', '.join(deaf)}" if deaf else "all answer"
    return [
        Check("stack", True, "", detail),
        Check("ports", not deaf, "", ports, f"The logs in {settings.home / 'logs'} say why."),
    ]


async def _accepts(port: int) -> bool:
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _kafka(settings: Settings) -> list[Check]:
    try:
        async with admin(settings) as client:
            cluster = await client.describe_cluster()
        counts = await topic_partitions(settings)
    except BrokerAway as error:
        remedy = "Start the embedded stack with 'radar up', or set RADAR_BROKER."
        return [Check("broker", False, "", f"{settings.broker}: {error.__cause__ or error}", remedy)]
    except TopicsError as error:
        remedy = "Check RADAR_BROKER, and RADAR_SECURITY with what belongs to it: docs/production.md."
        return [Check("broker", False, "", str(error), remedy)]
    brokers = ", ".join(f"{broker['host']}:{broker['port']}" for broker in cluster["brokers"])
    broker = Check("broker", True, cluster["cluster_id"] or "", f"{len(cluster['brokers'])} brokers: {brokers}")
    topics = _topics(settings, counts)
    if not topics.ok:
        return [broker, topics]
    return [broker, topics, await _worker(settings)]


def _topics(settings: Settings, counts: dict[str, int]) -> Check:
    missing = [settings.topic(name) for name in TOPICS if name not in counts]
    odd = [f"{settings.topic(name)} has {count}" for name, count in counts.items() if count != settings.partitions]
    if missing:
        return Check("topics", False, "", f"missing: {', '.join(missing)}", "Create them: radar schema --apply")
    if odd:
        remedy = "Set RADAR_PARTITIONS to the count all share, recreate the odd ones, or set another RADAR_PREFIX."
        return Check("topics", False, "", f"not {settings.partitions} partitions: {', '.join(odd)}", remedy)
    return Check("topics", True, "", f"{', '.join(map(settings.topic, counts))}: {settings.partitions} partitions each")


async def _worker(settings: Settings) -> Check:
    """Who is in the consumer group and how far it is behind."""
    group = settings.topic(settings.group)
    names = [settings.topic(name) for name in (*SOURCES, "signals")]
    partitions = [TopicPartition(name, number) for name in names for number in range(settings.partitions)]
    nobody = Check("workers", True, "", f"none in group '{group}' ('radar worker' starts one)")
    async with admin(settings) as client:
        try:
            [described] = await client.describe_consumer_groups([group])
        except GroupCoordinatorNotAvailableError:  # of a Kafka that has never seen a group
            return nobody
        [(_, _, state, _, _, members, *_)] = described.groups
        committed = await client.list_consumer_group_offsets(group, partitions=partitions)
    if not members:
        return nobody
    positions = {tp: max(committed[tp].offset, 0) if tp in committed else 0 for tp in partitions}
    ends = await _ends(settings, positions)
    lag = {name: sum(ends[tp] - positions[tp] for tp in partitions if tp.topic == name) for name in names}
    behind = ", ".join(f"{name} {count}" for name, count in lag.items() if count) or "nothing"
    return Check("workers", True, "", f"{len(members)} in group '{group}' ({state.lower()}); records behind: {behind}")


async def _ends(settings: Settings, positions: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
    """Where partitions end, taken from fetches: Tansu's ListOffsets falls short of the end."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=1 << 16,
        **client_security(settings),
    )
    await consumer.start()
    try:
        consumer.assign(list(positions))
        for tp, position in positions.items():
            consumer.seek(tp, position)
        while any(consumer.highwater(tp) is None for tp in positions):
            await consumer.getmany(timeout_ms=100)
        return {tp: max(consumer.highwater(tp), position) for tp, position in positions.items()}
    finally:
        await consumer.stop()


async def _triton(settings: Settings) -> list[Check]:
    """Live, ready, the model loaded, and a known text scored: an answer alone proves little."""
    if not settings.triton:
        here = partial(LocalScorer, settings.model_repo, settings.model)
        return [await _scores("scoring", here, "ONNX Runtime", "in this process, since RADAR_TRITON is empty")]
    client = InferenceServerClient(settings.triton)
    try:
        version = f"Triton {(await client.get_server_metadata(client_timeout=5)).version}"
        signs = {
            "live": await client.is_server_live(client_timeout=5),
            "ready": await client.is_server_ready(client_timeout=5),
            f"{settings.model} loaded": await client.is_model_ready(settings.model, client_timeout=5),
        }
    except InferenceServerException as error:
        remedy = "Start the embedded stack with 'radar up', or set RADAR_TRITON (empty: score in this process)."
        return [Check("triton", False, "", f"{settings.triton}: {error.message()}", remedy)]
    finally:
        await client.close()
    failing = [sign for sign, well in signs.items() if not well]
    if failing:
        remedy = f"Triton's log says why (of an embedded one: {settings.home / 'logs' / 'triton.log'})."
        return [Check("triton", False, version, f"{settings.triton}: not {', not '.join(failing)}", remedy)]
    detail = f"{settings.triton}: {', '.join(signs)}"
    there = partial(TritonScorer, settings.triton, settings.model_repo, settings.model)
    return [await _scores("triton", there, version, detail)]


async def _scores(name: str, open_scorer: Callable[[], Scorer], version: str, detail: str) -> Check:
    try:
        async with open_scorer() as scorer:
            await scorer.check(deadline=5.0)
    except ScoringError as error:
        remedy = "See that RADAR_MODEL_REPO is the repository which is served, and restart Triton."
        return Check(name, False, version, str(error), remedy)
    return Check(name, True, version, f"{detail}; {scorer.model} scores a known text soundly")


async def _store(settings: Settings) -> list[Check]:
    sink = open_sink(settings)
    try:
        await sink.open()
        [version] = await sink.query("SELECT version() AS version")
        sql = f"SELECT name FROM system.tables WHERE database = '{settings.database}' ORDER BY name"
        tables = ", ".join(table["name"] for table in await sink.query(sql))
    except SinkError as error:
        return [Check("store", False, "", str(error), "Its address: RADAR_SINK and RADAR_STORE or RADAR_CLICKHOUSE.")]
    finally:
        await sink.close()
    detail = f"{settings.sink}, database {settings.database}: {tables}"
    return [Check("store", True, f"ClickHouse {version['version']}", detail)]

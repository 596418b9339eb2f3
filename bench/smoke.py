"""``make bench-smoke``: how fast the two halves of the radar are here, beside what bounds them.

Clicks: a topic of simulated clicks through a real worker (decode, event-time order, sessions, product panes, triggers,
checkpoints, chDB) on the embedded broker, beside librdkafka consuming the same topic with orjson and nothing else.
Texts: simulated reviews and chats through the embedded Triton over gRPC, beside ONNX Runtime in this process with the
same model and batching. Both pairs run in the same call; the ratios mean more than the rates on a noisy machine. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.stack import tail, workers
from serving.client import TritonScorer
from serving.local import LocalScorer
from serving.scorer import Scorer
from stream.preprocess import prepare
from stream.replay import Event, replay_events
from stream.settings import Settings
from stream.simulate import Shop
from stream.stack import embedded_stack
from stream.status import wait_until_caught_up

BATCH = 128
PACKAGES = ("faust-streaming", "aiokafka", "confluent-kafka", "onnxruntime", "tritonclient", "nvidia-pytriton", "chdb")


def clicks(count: int) -> Iterable[Event]:
    """``count`` clicks of a busy shop, with its catalogue before them."""
    shop = Shop(seed=1, hours=count / 20_000, texts_per_hour=0, clicks_per_hour=20_000, scenario=[])
    taken = (event for event in shop.generate() if event.topic in ("clicks", "catalog"))
    return islice(taken, count + len(shop.catalog))


def texts(count: int) -> list[str]:
    """``count`` clean texts as the model gets them."""
    shop = Shop(seed=2, hours=count / 200, texts_per_hour=300, clicks_per_hour=0, scenario=[])
    values = (event.value for event in shop.generate() if event.topic in ("reviews", "chats"))
    spoken = (value["text"] for value in values if isinstance(value, dict) and value.get("role") != "agent")
    return [prepare(text).clean for text in islice(spoken, count)]


async def through_the_worker(settings: Settings, count: int) -> tuple[float, int]:
    """Clicks per second of a worker that finds them in the topic, from its readiness to all of them durable."""
    summary = await replay_events(clicks(count), settings)
    async with workers(settings, 1):
        begun = time.perf_counter()
        if not await wait_until_caught_up(settings, summary.last_ts + settings.session_gap_ms):
            raise RuntimeError(f"the worker did not finish: {tail(settings)}")
        return summary.sent["clicks"] / (time.perf_counter() - begun), summary.sent["clicks"]


def librdkafka(settings: Settings) -> float:
    """Records per second of the same topic: consumed in batches, parsed by orjson, thrown away."""
    consumer = Consumer(
        {"bootstrap.servers": settings.broker, "group.id": "bench", "enable.auto.commit": False, "log_level": 0}
    )
    consumer.assign([TopicPartition("clicks", partition, 0) for partition in range(settings.partitions)])
    begun, last, seen = 0.0, 0.0, 0
    while True:
        batch = consumer.consume(10_000, timeout=2.0)
        if not batch:
            break
        begun = begun or time.perf_counter()
        for record in batch:
            orjson.loads(record.value())
        seen += len(batch)
        last = time.perf_counter()
    consumer.close()
    return seen / (last - begun) if last > begun else 0.0


async def scoring(scorer: Scorer, samples: list[str]) -> float:
    """Texts per second, in blocks as the worker sends them, four under way as it has partitions."""
    await scorer.score(samples[:BATCH])
    blocks = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    gate = asyncio.Semaphore(4)

    async def one(block: list[str]) -> None:
        async with gate:
            await scorer.score(block)

    begun = time.perf_counter()
    await asyncio.gather(*map(one, blocks))
    return len(samples) / (time.perf_counter() - begun)


async def measure(click_count: int, text_count: int) -> dict[str, Any]:
    samples = texts(text_count)
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), idle_seconds=0)
        async with embedded_stack(settings, workers=0) as stack:
            async with TritonScorer(stack.settings.triton, settings.model_repo, settings.model) as scorer:
                triton = await scoring(scorer, samples)
            worker, sent = await through_the_worker(stack.settings, click_count)
            limit = await asyncio.to_thread(librdkafka, stack.settings)
        async with LocalScorer(settings.model_repo, settings.model) as local:
            in_process = await scoring(local, samples)
    return {
        "clicks_per_s": round(worker),
        "librdkafka_orjson_per_s": round(limit),
        "vs_librdkafka": round(worker / limit, 3),
        "texts_per_s": round(triton, 1),
        "onnxruntime_in_process_per_s": round(in_process, 1),
        "vs_onnxruntime": round(triton / in_process, 3),
        "clicks": sent,
        "texts": len(samples),
        "characters_per_text": round(sum(map(len, samples)) / len(samples), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clicks", type=int, default=200_000)
    parser.add_argument("--texts", type=int, default=2_000)
    options = parser.parse_args()
    figures = asyncio.run(measure(options.clicks, options.texts))
    table = Table("what", "per second", "beside", "per second", "ratio")
    table.add_row(
        "clicks through the worker", f"{figures['clicks_per_s']:,}",
        "librdkafka consume + orjson", f"{figures['librdkafka_orjson_per_s']:,}", f"{figures['vs_librdkafka']:.2f}",
    )  # fmt: skip
    table.add_row(
        "texts through Triton", f"{figures['texts_per_s']:,}",
        "ONNX Runtime in process", f"{figures['onnxruntime_in_process_per_s']:,}", f"{figures['vs_onnxruntime']:.2f}",
    )  # fmt: skip
    Console().print(table)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + ". Not measured: GPU, Apache Kafka, more than one worker."
    )
    print(orjson.dumps({"bench": "smoke", "figures": figures}).decode())


if __name__ == "__main__":
    main()

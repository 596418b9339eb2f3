"""The catalogue in every worker: a reader of the compacted ``catalog`` topic.

Each worker needs all products (a shopper's next product may be any), so this reads every partition, without a group,
from the start. :meth:`CatalogReader.start` returns when what was there has been read; later changes follow as they
come. A record that is not a product is logged with its place and left out; the product keeps its last good record.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from stream.events import Invalid
from stream.recommend.catalogue import LEAD_TIME_DAYS, Catalogue, Product
from stream.security import client_security
from stream.settings import Settings
from stream.topics import no_connection

log = logging.getLogger(__name__)

MOST_LEAD_DAYS: Final = 3_650
FIELDS: Final[dict[str, set[type]]] = {
    "product_id": {str},
    "title": {str},
    "category": {str},
    "price": {int, float},
    "stock": {int},
}


def read_product(value: bytes) -> Product:
    """A product from a catalogue record. Raises :class:`~stream.events.Invalid` naming the field."""
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"not JSON: {error}") from error
    if type(data) is not dict:
        raise Invalid("expected a JSON object")
    for name, kinds in FIELDS.items():
        if type(data.get(name)) not in kinds:
            raise Invalid(f"{name}: missing or of the wrong type; see docs/events.md")
    attributes = data.get("attributes") or {}
    if type(attributes) is not dict:
        raise Invalid("attributes: expected a JSON object")
    lead_time = data.get("lead_time_days", LEAD_TIME_DAYS)
    if type(lead_time) not in (int, float) or not 0 < lead_time <= MOST_LEAD_DAYS:
        raise Invalid(f"lead_time_days: expected days, above 0 and at most {MOST_LEAD_DAYS}")
    return Product(
        product_id=data["product_id"],
        title=data["title"],
        category=data["category"],
        brand=str(data.get("brand") or ""),
        price=float(data["price"]),
        stock=data["stock"],
        attributes={str(name): str(value) for name, value in attributes.items()},
        lead_time_days=float(lead_time),
    )


class CatalogReader:
    """Keeps ``catalogue`` equal to the topic."""

    def __init__(self, settings: Settings) -> None:
        self.catalogue = Catalogue()
        self._settings = settings
        self._partitions = [TopicPartition(settings.topic("catalog"), number) for number in range(settings.partitions)]
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and read what is there. Raises :class:`~stream.topics.TopicsError`."""
        settings = self._settings
        consumer = self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.brokers, auto_offset_reset="earliest", **client_security(settings)
        )
        try:
            await consumer.start()
        except KafkaConnectionError as error:
            raise await no_connection(settings, error) from error
        consumer.assign(self._partitions)
        await consumer.seek_to_beginning(*self._partitions)
        ends = await consumer.end_offsets(self._partitions)
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            self._apply(await consumer.getmany(timeout_ms=200))
        self._task = asyncio.create_task(self._follow(consumer))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._consumer is not None:
            await self._consumer.stop()

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            self._apply(await consumer.getmany(timeout_ms=1_000))

    def _apply(self, batch: dict[TopicPartition, list[Any]]) -> None:
        for record in (record for records in batch.values() for record in records):
            if not record.value:
                self.catalogue.remove((record.key or b"").decode("utf-8", "replace"))
                continue
            try:
                self.catalogue.upsert(read_product(record.value))
            except Invalid as error:
                log.warning("%s/%d@%d: left out: %s", record.topic, record.partition, record.offset, error)

"""Where alerts go after they are told: webhooks, Kafka topics, files. ``radar route`` runs this beside the workers.

Detection writes the topic ``alerts`` and knows nothing of routes, so no route can hold it up. The router reads that
topic and gives every state of every alert to the routes of its rule, each with a queue and a task of its own: a slow or
dead route delays itself alone. Promises:

- **at least once**: an offset is committed when all routes are done with everything before it. Each delivery carries an
  id that follows from alert and state, the same at every attempt and after every restart, so receivers can tell
  repetitions;
- **nothing is silently lost**: what a route does not take after its attempts, or has no room for, goes to the topic
  ``deadletters`` with the reason, and is counted;
- **who is told what**: a hold (acknowledged, silenced, snoozed) or an inhibition keeps an alert quiet, and the end of
  an alert goes to the routes that heard of it. What is known of living alerts is rebuilt from the topic at every start.

Webhooks are signed as Standard Webhooks (standardwebhooks.com) says: ``webhook-signature`` is ``v1,`` and the base64 of
HMAC-SHA256 over ``id.timestamp.body``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from stream.detect.policy import Inhibition, Route, Rules, inhibitor
from stream.detect.rules import RulesError, RulesFile
from stream.records import Alert as AlertRecord
from stream.records import DeadLetter, content_id, to_dict
from stream.security import client_security
from stream.settings import Settings
from stream.sinks.base import SinkError
from stream.sinks.kafka import KafkaOut
from stream.topics import TopicsError, no_connection

log = logging.getLogger(__name__)

BACKOFF_SECONDS: Final = 1.0
MOST_BACKOFF_SECONDS: Final = 60.0
TOLERANCE_SECONDS: Final = 300  # how old a signature may be
AGAIN: Final = frozenset({408, 409, 425, 429})  # refusals that may pass, with all of 5xx
FINISH_SECONDS: Final = 10.0
LOG_SECONDS: Final = 60.0
NEEDED: Final = {field.name for field in fields(AlertRecord)}
MEMORY_MS: Final = 7 * 86_400_000  # resolved alerts are known for so long, in event time
SECRET_PREFIX: Final = "whsec_"

Alert = dict[str, Any]


class RouteError(Exception):
    """A delivery that failed."""

    def __init__(self, reason: str, *, again: bool = True, after: float = 0.0) -> None:
        super().__init__(reason)
        self.again = again  # another attempt may help
        self.after = after  # seconds that the receiver asks to wait


# What is sent


class Delivery(NamedTuple):
    """One state of one alert on its way to one route. ``key`` is the same for every attempt."""

    key: str
    alert: Alert

    @property
    def body(self) -> bytes:
        return orjson.dumps({"type": f"alert.{self.alert['state']}", "timestamp": self.alert["updated_at"],
                             "data": self.alert})  # fmt: skip


def delivery(alert: Alert) -> Delivery:
    return Delivery(content_id("delivery", alert["alert_id"], alert["updated_at"], alert["state"]), alert)


def sign(secret: str, key: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``. ``secret``: ``whsec_`` and base64, or any text. Raises ValueError."""
    mac = hmac.digest(secret_bytes(secret), f"{key}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(mac).decode()}"


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether a webhook is ours and not older than five minutes; for receivers."""
    try:
        key, timestamp = headers["webhook-id"], int(headers["webhook-timestamp"])
        signatures = headers["webhook-signature"].split()
    except (KeyError, ValueError):
        return False
    expected = sign(secret, key, timestamp, body)
    fresh = abs(now - timestamp) <= TOLERANCE_SECONDS
    return fresh and any(hmac.compare_digest(expected.encode(), each.encode()) for each in signatures)


def secret_bytes(secret: str) -> bytes:
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a secret that begins with {SECRET_PREFIX} must go on in base64") from error


def backoff(attempt: int, dice: random.Random) -> float:
    """Seconds to wait after failed attempt number ``attempt`` (from 1): exponential, with full jitter."""
    return dice.uniform(0.0, min(MOST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** (attempt - 1)))


# Who is told


@dataclass
class Board:
    """The alerts that live, and which route has heard of which."""

    alerts: dict[str, Alert] = field(default_factory=dict)
    heard: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # alert: names of routes

    def update(self, alert: Alert, rules: Rules) -> list[Route]:
        """Note a state; the routes that should be told. A state that is not newer than what is known tells nobody."""
        known = self.alerts.get(alert["alert_id"])
        if known is not None and known["updated_at"] >= alert["updated_at"]:
            return []
        self.alerts[alert["alert_id"]] = alert
        heard = self.heard[alert["alert_id"]]
        told = [route for route in rules.routes_of(alert["rule"]) if self._tells(route, alert, rules.inhibitions)]
        if alert["state"] == "resolved":
            told = [route for route in told if route.name in heard]
            heard.clear()
            self._forget(alert["updated_at"] - MEMORY_MS)
        elif alert["state"] == "open":
            heard.update(route.name for route in told)
        return told

    def _tells(self, route: Route, alert: Alert, inhibitions: tuple[Inhibition, ...]) -> bool:
        if alert["state"] == "open" and inhibitor(alert, self.alerts.values(), inhibitions):
            return False
        return route.wants(alert)

    def _forget(self, before: int) -> None:
        """Let go of alerts that were resolved before then: nothing opens them again."""
        over = [i for i, alert in self.alerts.items() if alert["state"] == "resolved" and alert["updated_at"] < before]
        for alert_id in over:
            del self.alerts[alert_id]
            self.heard.pop(alert_id, None)


# How it is sent

Send = Callable[[Delivery], Awaitable[None]]


class Webhook:
    """POSTs deliveries to a URL; a 2xx answer is success. Redirects are not followed."""

    def __init__(self, route: Route, http: aiohttp.ClientSession, secret: str) -> None:
        self._route, self._http, self._secret = route, http, secret

    async def __call__(self, delivery: Delivery) -> None:
        body, now = delivery.body, int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.key,
            "webhook-timestamp": str(now),
            "idempotency-key": delivery.key,
        }
        if self._secret:
            headers["webhook-signature"] = sign(self._secret, delivery.key, now, body)
        timeout = aiohttp.ClientTimeout(total=self._route.timeout_seconds)
        try:
            async with self._http.post(
                self._route.address, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if not 200 <= answer.status < 300:
                    again = answer.status in AGAIN or answer.status >= 500
                    raise RouteError(f"HTTP {answer.status}", again=again, after=seconds(answer.headers))
        except TimeoutError as error:
            raise RouteError(f"no answer within {self._route.timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise RouteError(f"no connection: {error}") from error


def seconds(headers: Mapping[str, str]) -> float:
    """``Retry-After``, where it is a number of seconds; at most a minute."""
    try:
        return min(MOST_BACKOFF_SECONDS, max(0.0, float(headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0


class File:
    """Appends deliveries to a file, a JSON object a line."""

    def __init__(self, route: Route) -> None:
        self._path = Path(route.address)

    async def __call__(self, delivery: Delivery) -> None:
        try:
            await asyncio.to_thread(self._append, delivery.body + b"\n")
        except OSError as error:
            raise RouteError(f"cannot write {self._path}: {error}") from error

    def _append(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            file.write(line)


class Topic:
    """Sends the alerts as they are to a Kafka topic, keyed by their id."""

    def __init__(self, route: Route, out: KafkaOut) -> None:
        self._topic, self._out = route.address, out

    async def __call__(self, delivery: Delivery) -> None:
        try:
            await self._out.send(self._topic, [(delivery.alert["alert_id"], delivery.alert)])
        except SinkError as error:
            raise RouteError(str(error)) from error


Dead = Callable[[Route, Delivery, str], Awaitable[None]]


class Courier:
    """A route with its queue: ``offer`` never waits; ``run`` delivers one after the other."""

    def __init__(
        self,
        route: Route,
        send: Send,
        dead: Dead,
        dice: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.route = route
        self.counts: Counter[str] = Counter()
        self._send, self._dead, self._sleep = send, dead, sleep
        self._dice = dice or random.Random()
        self._queue: asyncio.Queue[tuple[Delivery, Callable[[], None]]] = asyncio.Queue(route.queue)
        self._overflow: asyncio.Queue[tuple[Delivery, Callable[[], None]]] = asyncio.Queue()
        self._told = -LOG_SECONDS

    def offer(self, delivery: Delivery, done: Callable[[], None]) -> None:
        """Take a delivery; ``done`` is called when it is delivered or a dead letter."""
        try:
            self._queue.put_nowait((delivery, done))
        except asyncio.QueueFull:
            self.counts["dropped"] += 1
            self._overflow.put_nowait((delivery, done))
            if time.monotonic() - self._told >= LOG_SECONDS:
                self._told = time.monotonic()
                log.error(
                    "Route %s is too slow: %d alerts went to the dead letters so far", self.route.name,
                    self.counts["dropped"],
                )  # fmt: skip

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deliver_all())
            tasks.create_task(self._bury_overflow())

    async def join(self) -> None:
        """Wait until everything that was offered is delivered or a dead letter."""
        await self._queue.join()
        await self._overflow.join()

    async def _deliver_all(self) -> None:
        while True:
            delivery, done = await self._queue.get()
            await self._deliver(delivery)
            done()
            self._queue.task_done()

    async def _bury_overflow(self) -> None:
        while True:
            delivery, done = await self._overflow.get()
            await self._dead(self.route, delivery, f"{self.route.queue} alerts are waiting already")
            done()
            self._overflow.task_done()

    async def _deliver(self, delivery: Delivery) -> None:
        for attempt in range(1, self.route.attempts + 1):
            try:
                await self._send(delivery)
            except RouteError as error:
                self.counts["failed"] += 1
                log.warning("Route %s, attempt %d: %s", self.route.name, attempt, error)
                if attempt == self.route.attempts or not error.again:
                    self.counts["dead"] += 1
                    await self._dead(self.route, delivery, f"{error} (attempt {attempt})")
                    return
                await self._sleep(max(error.after, backoff(attempt, self._dice)))
            else:
                self.counts["sent"] += 1
                return


# From the topic to the couriers


class Positions:
    """Which offsets of a partition are done: what may be committed."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # offset: deliveries under way
        self.next = -1  # after the last one read; -1: none

    def read(self, offset: int, deliveries: int) -> None:
        self.next = offset + 1
        if deliveries:
            self._open[offset] = deliveries

    def done(self, offset: int) -> None:
        self._open[offset] -= 1
        if not self._open[offset]:
            del self._open[offset]

    @property
    def committed(self) -> int:
        """Everything before it is done."""
        return min(self._open, default=self.next)


def read_alert(value: bytes | None) -> Alert:
    """A record of the topic. Raises ValueError where it is no alert."""
    alert = orjson.loads(value or b"")
    if not isinstance(alert, dict) or (missing := NEEDED - alert.keys()):
        raise ValueError(f"no alert: {', '.join(sorted(missing)) if isinstance(alert, dict) else 'no object'} missing")
    return alert


class Router:
    """Gives alerts to the couriers of their routes."""

    def __init__(self, rules: Rules, couriers: Mapping[str, Courier]) -> None:
        self.rules = rules
        self.couriers = couriers
        self.board = Board()
        self.positions: dict[int, Positions] = defaultdict(Positions)

    def take(self, partition: int, offset: int, value: bytes | None, *, send: bool) -> None:
        """A record of the topic; without ``send`` only what it says is noted. What is no alert is left out."""
        try:
            alert = read_alert(value)
            told = self.board.update(alert, self.rules)
        except ValueError as error:
            log.error("alerts/%d, offset %d: %s", partition, offset, error)
            told = []
        positions = self.positions[partition]
        positions.read(offset, len(told) if send else 0)
        for route in told if send else ():
            self.couriers[route.name].offer(delivery(alert), lambda: positions.done(offset))


async def route_alerts(settings: Settings, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
    """Run the router until ``stop``, again with other rules whenever the file changes.

    Raises RulesError, TopicsError, and ValueError for a secret. One router per stack: two would tell everything twice.
    """
    file = RulesFile(settings.rules)
    while not stop.is_set():
        await _route_by(file, settings, stop, ready)


async def _route_by(file: RulesFile, settings: Settings, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    rules = file.rules
    out = KafkaOut(settings.brokers, client_security(settings))

    async def dead(route: Route, delivery: Delivery, reason: str) -> None:
        letter = DeadLetter(settings.topic("alerts"), -1, -1, f"route {route.name}: {reason}", delivery.body.decode())
        log.error("Route %s gave up on alert %s: %s", route.name, delivery.alert["alert_id"], reason)
        try:
            await out.send(settings.topic("deadletters"), [(delivery.alert["alert_id"], to_dict(letter))])
        except SinkError as error:
            log.error("... and the topic deadletters did not take it: %s", error)

    async with aiohttp.ClientSession() as http:
        couriers = {name: Courier(route, sender(route, http, out), dead) for name, route in rules.routes.items()}
        running = [asyncio.create_task(courier.run()) for courier in couriers.values()]
        try:
            await _follow(settings, Router(rules, couriers), lambda: stop.is_set() or file.poll(), ready)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await out.close()


def sender(route: Route, http: aiohttp.ClientSession, out: KafkaOut) -> Send:
    """What carries the deliveries of a route. Raises ValueError where its secret is missing."""
    if route.to == "file":
        return File(route)
    if route.to == "kafka":
        return Topic(route, out)
    secret = os.environ.get(route.secret_env, "") if route.secret_env else ""
    if route.secret_env and not secret:
        raise ValueError(f"route {route.name}: set the environment variable {route.secret_env} to its signing secret")
    secret_bytes(secret)
    return Webhook(route, http, secret)


async def _follow(settings: Settings, router: Router, is_over: Callable[[], bool], ready: Callable[[], None]) -> None:
    """Read the topic from its start: up to what was committed in order to know what lives, from there on to tell."""
    topic = settings.topic("alerts")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers,
        group_id=settings.topic(f"{settings.group}-routes"),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **client_security(settings),
    )
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, number) for number in range(settings.partitions)]
        consumer.assign(partitions)
        committed = {tp.partition: await consumer.committed(tp) or 0 for tp in partitions}
        first = dict(committed)
        await consumer.seek_to_beginning(*partitions)
        ready()
        while not is_over():
            for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    is_new = record.offset >= first[tp.partition]
                    router.take(tp.partition, record.offset, record.value, send=is_new)
            await _commit(consumer, topic, router, committed)
        await _finish(router)
        await _commit(consumer, topic, router, committed)
    except (KafkaConnectionError, OSError) as error:
        raise await no_connection(settings, error) from error
    finally:
        with suppress(KafkaError, OSError):
            await consumer.stop()


async def _commit(consumer: AIOKafkaConsumer, topic: str, router: Router, committed: dict[int, int]) -> None:
    """Commit what is done; one that fails is made up for by the next."""
    ahead = {
        partition: positions.committed
        for partition, positions in router.positions.items()
        if positions.committed > committed[partition]
    }
    if ahead:
        try:
            await consumer.commit({TopicPartition(topic, partition): offset for partition, offset in ahead.items()})
            committed.update(ahead)
        except KafkaError as error:
            log.warning("the offsets of delivered alerts are not committed yet: %r", error)


async def _finish(router: Router) -> None:
    """Give deliveries that are under way some time; the others are delivered after the next start."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FINISH_SECONDS):
            await asyncio.gather(*(courier.join() for courier in router.couriers.values()))


async def serve(settings: Settings, ready_file: Path | None = None) -> None:
    """``radar route``: until SIGTERM or Ctrl-C."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await route_alerts(settings, stop, ready_file.touch if ready_file else lambda: None)


def main() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    settings = Settings()
    try:
        asyncio.run(serve(settings, settings.home / "router.ready"))
    except (RulesError, TopicsError, ValueError) as error:
        sys.exit(f"the router ends: {error}")


if __name__ == "__main__":
    main()

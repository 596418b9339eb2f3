"""Routes of alerts: who is told what, against a real HTTP server; and the router on a real broker."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from test_sinks_rows import T0
from test_sinks_rows import alert as row

from stream import routing
from stream.detect.policy import Inhibition, Matcher, Route, Rules
from stream.detect.rules import DEFAULT_RULES, read_rules
from stream.routing import Board, Courier, Delivery, Positions, RouteError, Router, backoff, delivery, sign, verify
from stream.settings import Settings
from stream.stack import embedded_stack

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOOK = Route("hook", "webhook", "http://127.0.0.1:1/", attempts=3, timeout_seconds=0.5)
RULE = replace(DEFAULT_RULES[0], routes=("hook", "pager"))
RULES = Rules(
    (RULE,),
    {"hook": HOOK, "pager": replace(HOOK, name="pager", min_severity=8)},
    (Inhibition(Matcher({"scope": "category"}), Matcher({"scope": "product"}), ("category",)),),
)


def alert(n: int = 0, minute: int = 0, **changes: Any) -> dict[str, Any]:
    return row(n, updated_at=T0 + minute * 60_000, **changes)


# Signatures


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own libraries."""
    assert (
        sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def headers(body: bytes, at: int = 1_000, secret: str = SECRET) -> dict[str, str]:
    return {"webhook-id": "m1", "webhook-timestamp": str(at), "webhook-signature": sign(secret, "m1", at, body)}


def test_a_receiver_can_tell_ours_from_others() -> None:
    good = headers(b"{}")
    assert verify(SECRET, good, b"{}", 1_200)
    assert verify(SECRET, good | {"webhook-signature": f"v1,AAAA {good['webhook-signature']}"}, b"{}", 1_200)
    assert not verify(SECRET, good, b"{ }", 1_200)
    assert not verify(SECRET, good, b"{}", 1_301)  # too old
    assert not verify(SECRET, good, b"{}", 699)
    assert not verify("another", good, b"{}", 1_200)
    assert not verify(SECRET, good | {"webhook-timestamp": "1001"}, b"{}", 1_200)
    assert not verify(SECRET, good | {"webhook-id": "m2"}, b"{}", 1_200)
    assert not verify(SECRET, {name: good[name] for name in ("webhook-id", "webhook-timestamp")}, b"{}", 1_200)
    assert not verify(SECRET, good | {"webhook-timestamp": "now"}, b"{}", 1_200)


def test_a_secret_may_be_any_text_and_a_broken_one_is_refused() -> None:
    assert verify("päss", headers(b"x", secret="päss"), b"x", 1_000)
    assert sign("whsec_" + base64.b64encode(b"abc").decode(), "i", 1, b"") == sign("abc", "i", 1, b"")
    with pytest.raises(ValueError, match="go on in base64"):
        sign("whsec_not base64!", "i", 1, b"")


# Who is told


def told(board: Board, *states: dict[str, Any], rules: Rules = RULES) -> list[list[str]]:
    return [[route.name for route in board.update(state, rules)] for state in states]


def test_openings_and_ends_go_out_and_holds_do_not() -> None:
    states = [
        alert(), alert(minute=1, state="acknowledged"), alert(minute=2, state="resolved"), alert(minute=3),
        alert(minute=4, state="silenced"), alert(minute=5, state="resolved"),
    ]  # fmt: skip
    assert told(Board(), *states) == [["hook"], [], ["hook"], ["hook"], [], ["hook"]]


def test_only_routes_that_heard_of_an_alert_hear_of_its_end() -> None:
    worse = alert(minute=1, severity=9)
    assert told(Board(), alert(), worse, alert(minute=2, severity=9, state="resolved")) == [
        ["hook"], ["hook", "pager"], ["hook", "pager"]
    ]  # fmt: skip
    assert told(Board(), alert(severity=9, state="silenced"), alert(minute=1, severity=9, state="resolved")) == [[], []]


def test_a_route_may_ask_for_holds_and_may_be_muted() -> None:
    wide = replace(HOOK, states=("open", "acknowledged"))
    assert wide.wants(alert(state="acknowledged")) and not wide.wants(alert(state="resolved"))
    (muted, _) = read_rules(
        "rules: {a: {kind: demand_surge}}\nroutes:\n  a: {to: file, address: f, mute_during: [always]}\n"
        "  b: {to: file, address: f}\ncalendars: {always: [{}]}"
    ).routes.values()
    assert not muted.wants(alert())


def test_a_state_that_is_repeated_or_older_tells_nobody() -> None:
    board = Board()
    assert told(board, alert(), alert(), alert(minute=2), alert(minute=1)) == [["hook"], [], ["hook"], []]


def test_a_category_keeps_its_products_quiet_while_it_lives() -> None:
    category = alert(1, scope="category", product_id="")
    states = [category, alert(), alert(1, 1, scope="category", product_id="", state="resolved"), alert(minute=2)]
    assert told(Board(), *states) == [["hook"], [], ["hook"], ["hook"]]


def test_an_alert_of_an_unknown_rule_goes_nowhere() -> None:
    assert told(Board(), alert(rule="gone")) == [[]]


def test_ended_alerts_are_forgotten_in_event_time() -> None:
    board = Board()
    for n in range(50):
        told(board, alert(n, n * 1_440), alert(n, n * 1_440 + 1, state="resolved"))
    assert 7 <= len(board.alerts) <= 9
    assert set(board.heard) == set(board.alerts)


# Couriers


class Dead(list[tuple[str, str, str]]):
    async def __call__(self, route: Route, delivery: Delivery, reason: str) -> None:
        self.append((route.name, delivery.alert["alert_id"], reason))


class Sleeps(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


class Sender:
    """Fails as told, then takes everything."""

    def __init__(self, *failures: RouteError) -> None:
        self.failures, self.taken = list(failures), list[Delivery]()

    async def __call__(self, delivery: Delivery) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.taken.append(delivery)


@asynccontextmanager
async def running(courier: Courier) -> AsyncIterator[None]:
    task = asyncio.create_task(courier.run())
    try:
        yield
        async with asyncio.timeout(10):
            await courier.join()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_failure_that_may_pass_is_tried_again_with_growing_pauses() -> None:
    send, sleeps, dead = Sender(RouteError("busy"), RouteError("busy", after=30)), Sleeps(), Dead()
    courier = Courier(HOOK, send, dead, random.Random(1), sleeps)
    done: list[int] = []
    async with running(courier):
        courier.offer(delivery(alert()), lambda: done.append(1))
    assert [each.alert for each in send.taken] == [alert()] and done == [1] and dead == []
    assert 0 <= sleeps[0] <= 1 and sleeps[1] == 30
    assert courier.counts == {"failed": 2, "sent": 1}


async def test_after_its_attempts_an_alert_is_a_dead_letter_and_the_next_one_goes_out() -> None:
    send, dead = Sender(*[RouteError("HTTP 503")] * 3), Dead()
    courier = Courier(HOOK, send, dead, sleep=Sleeps())
    async with running(courier):
        courier.offer(delivery(alert(0)), lambda: None)
        courier.offer(delivery(alert(1)), lambda: None)
    assert dead == [("hook", "a0", "HTTP 503 (attempt 3)")]
    assert [each.alert["alert_id"] for each in send.taken] == ["a1"]


async def test_a_refusal_for_good_is_not_tried_again() -> None:
    send, dead, sleeps = Sender(RouteError("HTTP 410", again=False)), Dead(), Sleeps()
    courier = Courier(HOOK, send, dead, sleep=sleeps)
    async with running(courier):
        courier.offer(delivery(alert()), lambda: None)
    assert dead == [("hook", "a0", "HTTP 410 (attempt 1)")] and sleeps == []


async def test_a_route_that_hangs_takes_what_it_has_room_for_and_the_rest_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, dead, done = asyncio.Event(), Dead(), list[int]()

    async def hang(_: Delivery) -> None:
        await gate.wait()

    courier = Courier(replace(HOOK, queue=3), hang, dead)
    with caplog.at_level(logging.ERROR):
        async with running(courier):
            for n in range(20):
                courier.offer(delivery(alert(n)), lambda n=n: done.append(n))  # type: ignore[misc]
            await asyncio.sleep(0)
            gate.set()
    assert courier.counts["dropped"] == len(dead) == 17
    assert courier.counts["sent"] == 3 and sorted(done) == list(range(20))
    assert len([record for record in caplog.records if "too slow" in record.message]) == 1


@given(st.integers(1, 30), st.integers())
def test_pauses_grow_to_a_minute_and_never_beyond(attempt: int, seed: int) -> None:
    assert 0 <= backoff(attempt, random.Random(seed)) <= min(60.0, 2.0 ** (attempt - 1))


# Offsets


@given(st.lists(st.integers(0, 3), max_size=20), st.randoms(use_true_random=False))
def test_only_what_is_done_is_committed(deliveries: list[int], dice: random.Random) -> None:
    positions = Positions()
    under_way = [offset for offset, count in enumerate(deliveries) for _ in range(count)]
    for offset, count in enumerate(deliveries):
        positions.read(offset, count)
    dice.shuffle(under_way)
    while under_way:
        assert positions.committed == min(under_way)
        positions.done(under_way.pop())
    assert positions.committed == (len(deliveries) or -1)


class Offered:
    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, Any], Callable[[], None]]] = []

    def offer(self, delivery: Delivery, done: Callable[[], None]) -> None:
        self.taken.append((delivery.alert, done))


def test_the_router_notes_what_was_told_before_and_skips_what_is_no_alert(caplog: pytest.LogCaptureFixture) -> None:
    hook = Offered()
    router = Router(RULES, {"hook": hook, "pager": Offered()})  # type: ignore[dict-item]
    end = orjson.dumps(alert(minute=1, state="resolved"))
    values = [orjson.dumps(alert()), b"{", b"[]", b'{"alert_id": 1}', None, end]
    with caplog.at_level(logging.ERROR):
        for offset, value in enumerate(values):
            router.take(0, offset, value, send=offset > 0)
    assert [taken["state"] for taken, _ in hook.taken] == ["resolved"]  # which the route heard of before the restart
    assert len(caplog.records) == 4
    assert router.positions[0].committed == 5
    hook.taken[0][1]()
    assert router.positions[0].committed == 6


# A real HTTP server


class Receiver:
    """Answers with ``statuses`` in turn, then 204; keeps what it got."""

    def __init__(self, *statuses: int, wait: float = 0.0) -> None:
        self.statuses, self.wait = list(statuses), wait
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Receiver]:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        if self.statuses:
            status = self.statuses.pop(0)
            return web.Response(status=status, headers={"Retry-After": "7", "Location": "/hook"})
        await asyncio.sleep(self.wait)
        return web.Response(status=204)


@asynccontextmanager
async def webhook(url: str, secret: str = SECRET) -> AsyncIterator[routing.Webhook]:
    async with aiohttp.ClientSession() as http:
        yield routing.Webhook(replace(HOOK, address=url), http, secret)


async def test_a_webhook_arrives_signed_and_with_the_same_id_at_each_attempt() -> None:
    async with Receiver(503, 200).serving() as receiver, webhook(receiver.url) as send:
        sleeps = Sleeps()
        courier = Courier(HOOK, send, Dead(), sleep=sleeps)
        async with running(courier):
            courier.offer(delivery(alert()), lambda: None)
    (first, body), (second, again) = receiver.got
    lower = {name.lower(): value for name, value in second.items()}
    assert verify(SECRET, lower, again, time.time()) and body == again
    assert first["webhook-id"] == second["webhook-id"] == second["idempotency-key"] == delivery(alert()).key
    assert json.loads(body) == {"type": "alert.open", "timestamp": T0, "data": json.loads(json.dumps(alert()))}
    assert len(sleeps) == 1 and sleeps[0] == 7


@pytest.mark.parametrize(("status", "again"), [(302, False), (400, False), (404, False), (410, False), (408, True),
                                              (429, True), (500, True), (503, True)])  # fmt: skip
async def test_which_answers_are_worth_another_attempt(status: int, again: bool) -> None:
    async with Receiver(status).serving() as receiver, webhook(receiver.url) as send:
        with pytest.raises(RouteError, match=f"HTTP {status}") as error:
            await send(delivery(alert()))
    assert (error.value.again, error.value.after) == (again, 7)
    assert len(receiver.got) == 1  # redirects are not followed


async def test_a_receiver_that_hangs_or_is_away_is_a_failure_that_may_pass() -> None:
    async with Receiver(wait=5).serving() as receiver, webhook(receiver.url) as send:
        with pytest.raises(RouteError, match=r"no answer within 0\.5 s") as error:
            await send(delivery(alert()))
    assert error.value.again
    async with webhook(receiver.url) as send:
        with pytest.raises(RouteError, match="no connection") as error:
            await send(delivery(alert()))
    assert error.value.again


async def test_a_webhook_without_a_secret_is_not_signed() -> None:
    async with Receiver().serving() as receiver, webhook(receiver.url, "") as send:
        await send(delivery(alert()))
    assert "webhook-signature" not in {name.lower() for name in receiver.got[0][0]}


async def test_a_missing_or_broken_secret_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = replace(HOOK, secret_env="OPS_SECRET")
    async with aiohttp.ClientSession() as http:
        monkeypatch.delenv("OPS_SECRET", raising=False)
        with pytest.raises(ValueError, match="route hook: set the environment variable OPS_SECRET"):
            routing.sender(signed, http, None)  # type: ignore[arg-type]
        monkeypatch.setenv("OPS_SECRET", "whsec_?")
        with pytest.raises(ValueError, match="base64"):
            routing.sender(signed, http, None)  # type: ignore[arg-type]


async def test_a_file_gets_a_line_for_each_and_says_when_it_cannot(tmp_path: Path) -> None:
    send = routing.File(Route("log", "file", str(tmp_path / "a.jsonl")))
    await send(delivery(alert(0)))
    await send(delivery(alert(1, state="resolved")))
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    said = [(line["type"], line["data"]["alert_id"]) for line in lines]
    assert said == [("alert.open", "a0"), ("alert.resolved", "a1")]
    with pytest.raises(RouteError, match="cannot write"):
        await routing.File(Route("log", "file", str(tmp_path / "no" / "a")))(delivery(alert()))


# On a real broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Settings]:
    async with embedded_stack(Settings(home=tmp_path / "home", triton="", partitions=2), workers=0) as stack:
        yield stack.settings


@pytest.mark.stack
async def test_alerts_of_the_topic_reach_their_routes_once_and_a_dead_route_holds_up_no_other(
    broker: Settings, tmp_path: Path
) -> None:
    settings = broker
    async with Receiver().serving() as receiver:
        rules = tmp_path / "rules.yaml"
        rules.write_text(
            "rules:\n  negative-spike: {kind: negative_spike, routes: [hook, topic, file, dead]}\nroutes:\n"
            f"  hook: {{to: webhook, address: '{receiver.url}'}}\n"
            f"  topic: {{to: kafka, address: {settings.topic('recommendations')}}}\n"
            f"  file: {{to: file, address: '{tmp_path / 'alerts.jsonl'}'}}\n"
            f"  dead: {{to: webhook, address: '{receiver.url}/nowhere', attempts: 1}}\n"
        )
        settings = settings.model_copy(update={"rules": str(rules)})
        out = routing.KafkaOut(settings.brokers)

        async def route(*alerts: dict[str, Any], lines: int) -> None:
            await out.send(settings.topic("alerts"), [(each["alert_id"], each) for each in alerts])
            stop = asyncio.Event()
            task = asyncio.create_task(routing.route_alerts(settings, stop))
            async with asyncio.timeout(60):
                while len(_lines(tmp_path / "alerts.jsonl")) < lines and not task.done():  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
                stop.set()
                await task

        await route(alert(0), alert(1), lines=2)
        await route(alert(0), alert(0, 5, state="resolved"), lines=3)  # after a restart; the first is repeated
        received = [json.loads(body)["data"] for _, body in receiver.got]
        assert sorted((each["alert_id"], each["state"]) for each in received) == [
            ("a0", "open"), ("a0", "resolved"), ("a1", "open")
        ]  # fmt: skip
        copied = await _read(settings, "recommendations", 3)
        assert sorted(each["alert_id"] for each in copied) == ["a0", "a0", "a1"]
        letters = await _read(settings, "deadletters", 3)
        assert {letter["reason"] for letter in letters} == {"route dead: HTTP 404 (attempt 1)"}

        # other rules while it runs
        stop, other = asyncio.Event(), tmp_path / "other.jsonl"
        task = asyncio.create_task(routing.route_alerts(settings, stop))
        rules.write_text(
            "rules:\n  negative-spike: {kind: negative_spike, routes: [other]}\n"
            f"routes:\n  other: {{to: file, address: '{other}'}}\n"
        )
        async with asyncio.timeout(60):
            await asyncio.sleep(1)
            await out.send(settings.topic("alerts"), [("a7", alert(7))])
            while not other.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            stop.set()
            await task
        assert [json.loads(line)["data"]["alert_id"] for line in _lines(other)] == ["a7"]
        await out.close()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def _read(settings: Settings, topic: str, count: int) -> list[dict[str, Any]]:
    consumer = routing.AIOKafkaConsumer(
        settings.topic(topic), bootstrap_servers=settings.brokers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            return [orjson.loads((await consumer.getone()).value) for _ in range(count)]
    finally:
        await consumer.stop()

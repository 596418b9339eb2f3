"""The doctor with nothing there, and with the whole stack."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console

from stream import doctor
from stream.doctor import Check, as_json, as_table, examine
from stream.settings import Settings
from stream.stack import embedded_stack
from stream.supervise import free_ports


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def nothing(tmp_path: Path) -> Settings:
    broker, triton, store = free_ports(3)
    return Settings(
        home=tmp_path, model_repo=tmp_path, broker=f"127.0.0.1:{broker}", triton=f"127.0.0.1:{triton}",
        store=f"http://127.0.0.1:{store}",
    )  # fmt: skip


async def test_every_failing_check_says_what_to_do(nothing: Settings) -> None:
    checks = by_name(await examine(nothing))
    assert {name for name, check in checks.items() if not check.ok} == {"model", "broker", "triton", "store"}
    assert all(check.remedy for check in checks.values() if not check.ok)
    assert checks["python"].ok and checks["packages"].ok and checks["numpy"].ok and checks["disk"].ok
    assert "radar up" in checks["stack"].detail


async def test_clickhouse_that_is_away_is_a_finding_too(nothing: Settings) -> None:
    nothing.sink, nothing.clickhouse = "clickhouse", f"127.0.0.1:{free_ports(1)[0]}"
    assert "RADAR_CLICKHOUSE" in by_name(await examine(nothing))["store"].remedy


async def test_one_check_that_hangs_or_breaks_does_not_keep_the_others(
    nothing: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def _triton(settings: Settings) -> list[Check]:
        await asyncio.Event().wait()
        return []

    async def _model(settings: Settings) -> list[Check]:
        raise LookupError("something else")

    monkeypatch.setattr(doctor, "CHECK_SECONDS", 3.0)
    monkeypatch.setattr(doctor, "_triton", _triton)
    monkeypatch.setattr(doctor, "_model", _model)
    checks = by_name(await examine(nothing))
    assert "no answer within 3 s" in checks["triton"].detail
    assert "LookupError: something else" in checks["model"].detail
    assert checks["store"].remedy


async def test_a_full_disk_is_found(nothing: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISK_BYTES", 1 << 60)
    check = by_name(await examine(nothing))["disk"]
    assert not check.ok and "RADAR_HOME" in check.remedy


def test_rendering() -> None:
    checks = [Check("a", True, "1.0", "fine [1]"), Check("b", False, "", "gone", "do [this]")]
    assert json.loads(json.dumps(as_json(checks)))[1] == {
        "name": "b", "ok": False, "version": "", "detail": "gone", "remedy": "do [this]",
    }  # fmt: skip
    console = Console(record=True, width=100)
    console.print(as_table(checks))
    text = console.export_text()
    assert "fine [1]" in text and "do [this]" in text and "!!" in text


@pytest.mark.stack
async def test_a_stack_is_well(tmp_path: Path) -> None:
    async with embedded_stack(Settings(home=tmp_path)) as stack:
        checks = by_name(await examine(stack.settings))
    assert [check for check in checks.values() if not check.ok] == []
    assert (
        "1 in group 'radar'" in checks["workers"].detail and "broker, store, triton, worker-0" in checks["stack"].detail
    )
    assert checks["triton"].version == "Triton 2.51.0" and "scores a known text soundly" in checks["triton"].detail
    assert checks["store"].version.startswith("ClickHouse 2") and "signals" in checks["store"].detail


@pytest.mark.stack
async def test_topics_ports_and_lag(tmp_path: Path) -> None:
    async with embedded_stack(Settings(home=tmp_path, triton="", partitions=2), workers=0) as stack:
        settings = stack.settings
        assert "none in group" in by_name(await examine(settings))["workers"].detail
        worker = AIOKafkaConsumer(
            "clicks", bootstrap_servers=settings.brokers, group_id="radar", enable_auto_commit=False
        )
        async with AIOKafkaProducer(bootstrap_servers=settings.brokers) as producer, worker:
            await asyncio.gather(*[await producer.send("clicks", b"{}", partition=1) for _ in range(50)])
            await worker.getmany(timeout_ms=2_000)
            await worker.commit({TopicPartition("clicks", 1): 20})
            checks = by_name(await examine(settings))
        assert "records behind: clicks 30" in checks["workers"].detail
        assert checks["scoring"].ok and checks["ports"].ok

        settings.partitions = 4
        assert "clicks has 2" in by_name(await examine(settings))["topics"].detail
        settings.prefix = "other-"
        check = by_name(await examine(settings))["topics"]
        assert "missing: other-reviews" in check.detail and "radar schema --apply" in check.remedy

"""Topics on the real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from stream import topics as room
from stream.settings import Settings
from stream.stack import embedded_stack
from stream.supervise import free_ports
from stream.topics import COMPACTED, TOPICS, BrokerAway, TopicsError, admin, ensure_topics, topic_partitions


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """Of a running stack, with names of its own."""
    async with embedded_stack(Settings(home=tmp_path, triton="", partitions=3), workers=0) as stack:
        yield Settings(**{**dict(stack.settings), "prefix": "other-"})


@pytest.mark.stack
async def test_topics_are_created_once(settings: Settings) -> None:
    assert await topic_partitions(settings) == {}
    await ensure_topics(settings)
    await ensure_topics(settings)
    assert await topic_partitions(settings) == dict.fromkeys(TOPICS, 3)
    async with admin(settings) as client:
        assert {f"other-{name}" for name in TOPICS} < set(await client.list_topics())
        for name in TOPICS:
            [answer] = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, settings.topic(name))])
            values = {entry[0]: entry[1] for entry in answer.resources[0][4]}
            assert (values.get("cleanup.policy") == "compact") == (name in COMPACTED)


@pytest.mark.stack
async def test_a_topic_with_other_partitions_is_refused_by_name(settings: Settings) -> None:
    async with admin(settings) as client:
        await client.create_topics([NewTopic("other-clicks", 5, 1)])
    with pytest.raises(TopicsError, match=r"needs 3 partitions .* other-clicks has 5\. Set RADAR_PARTITIONS"):
        await ensure_topics(settings)


async def test_a_broker_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [port] = free_ports(1)
    monkeypatch.setattr(room, "TIMEOUT_SECONDS", 3.0)
    with pytest.raises(BrokerAway, match=rf"127\.0\.0\.1:{port} .*radar up.*RADAR_BROKER"):
        await ensure_topics(Settings(home=tmp_path, broker=f"127.0.0.1:{port}"))

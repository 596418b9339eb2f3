"""The topics of the radar: created when they are missing, checked when they are there.

Reviews, chats and clicks must have as many partitions as signals, because partition ``n`` of each is joined on one
worker; with other counts a product's events would be split among workers and nothing would fail loudly. Therefore
:func:`ensure_topics` refuses to go on where a topic already exists with another count. Calling it again changes
nothing. Works on Tansu and on Apache Kafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, TopicAlreadyExistsError, for_code

from stream.security import SecurityError, client_security, why_refused
from stream.settings import Settings

TOPICS = ("reviews", "chats", "clicks", "catalog", "said", "signals", "alerts", "recommendations", "deadletters")
COMPACTED = ("catalog",)
TIMEOUT_SECONDS = 10.0


class TopicsError(RuntimeError):
    """The topics are not as the radar needs them; the message says what to do."""


class BrokerAway(TopicsError):
    """No broker answers."""


class BrokerRefuses(TopicsError):
    """Brokers answer, but let nobody in with these settings."""


async def ensure_topics(settings: Settings) -> None:
    """Create what is missing and check the partition counts. Raises :class:`TopicsError`."""
    async with admin(settings) as client:
        await _create(client, settings)
        found = await _partitions(client, settings)
        while len(found) < len(TOPICS):  # a cluster spreads the news of a new topic in its own time
            await asyncio.sleep(0.1)
            found = await _partitions(client, settings)
    wrong = {name: count for name, count in found.items() if count != settings.partitions}
    if wrong:
        listed = ", ".join(f"{settings.topic(name)} has {count}" for name, count in wrong.items())
        raise TopicsError(
            f"The radar needs {settings.partitions} partitions in each topic, but {listed}. Set RADAR_PARTITIONS to "
            "the count all of them share, recreate the odd ones, or use other names with RADAR_PREFIX."
        )


async def topic_partitions(settings: Settings) -> dict[str, int]:
    """Partition counts of those of the radar's topics that exist. Raises :class:`TopicsError`."""
    async with admin(settings) as client:
        return await _partitions(client, settings)


@asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client whose failures and silence within the block come out as :class:`TopicsError`."""
    try:
        security = client_security(settings)
    except SecurityError as error:
        raise TopicsError(str(error)) from error
    client = AIOKafkaAdminClient(
        bootstrap_servers=settings.brokers, request_timeout_ms=int(TIMEOUT_SECONDS * 1_000), **security
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await client.start()
            yield client
    except (KafkaConnectionError, NodeNotReadyError, OSError, TimeoutError) as error:
        raise await no_connection(settings, error) from error
    except KafkaError as error:
        raise TopicsError(f"The broker at {settings.broker} answers: {error}") from error
    finally:
        await client.close()


async def no_connection(settings: Settings, error: BaseException) -> TopicsError:
    """What to raise where no connection came about."""
    if reason := await why_refused(settings.brokers, client_security(settings)):
        return BrokerRefuses(f"No connection to the Kafka broker at {settings.broker}: {reason}")
    return BrokerAway(
        f"No Kafka broker answers at {settings.broker} ({error or type(error).__name__}). Start the embedded stack "
        "with 'radar up' or set RADAR_BROKER."
    )


async def _create(client: AIOKafkaAdminClient, settings: Settings) -> None:
    answer = await client.create_topics(
        [
            NewTopic(
                settings.topic(name),
                settings.partitions,
                settings.replication,
                topic_configs={"cleanup.policy": "compact"} if name in COMPACTED else {},
            )
            for name in TOPICS
        ]
    )
    for topic, code, *message in answer.topic_errors:
        if code not in (0, TopicAlreadyExistsError.errno):
            reason = next(filter(None, message), for_code(code).__name__)
            raise TopicsError(f"The broker at {settings.broker} does not create topic '{topic}': {reason}")


async def _partitions(client: AIOKafkaAdminClient, settings: Settings) -> dict[str, int]:
    existing = set(await client.list_topics())  # describing an unknown topic would create it
    names = [name for name in TOPICS if settings.topic(name) in existing]
    described = await client.describe_topics([settings.topic(name) for name in names]) if names else []
    counts = {topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}
    return {name: counts[settings.topic(name)] for name in names if settings.topic(name) in counts}

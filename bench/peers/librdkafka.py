"""The limit: librdkafka hands over records by the ten thousand, orjson parses them, nothing else is done."""

from __future__ import annotations

import orjson
from confluent_kafka import Consumer, TopicPartition

from bench.peers import FETCH, asked

BATCH = 10_000


def main() -> None:
    run = asked()
    consumer = Consumer(
        {"bootstrap.servers": run.broker, "group.id": "librdkafka", "enable.auto.commit": False} | FETCH
    )
    consumer.assign([TopicPartition(run.topic, partition, 0) for partition in range(len(run.positions))])
    while run.left > 0:
        for record in consumer.consume(min(BATCH, run.left), timeout=1.0):
            run.begin()
            orjson.loads(record.value())
            if record.key() is not None and run.took(record.partition()):
                break
    run.end()
    consumer.close()
    run.report("librdkafka", "confluent-kafka")


if __name__ == "__main__":
    main()

-- Records that could not be read. They have no event time, hence the month of writing; the payload is part of the key
-- because an embedded broker starts its offsets at 0 again. topic and partition are the place in Kafka.
CREATE TABLE IF NOT EXISTS deadletters_v1 (
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64,
    reason String,
    payload String,
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ingested_at)
ORDER BY (topic, partition, offset, cityHash64(payload))
TTL ingested_at + INTERVAL 90 DAY;

CREATE VIEW IF NOT EXISTS deadletters AS SELECT * FROM deadletters_v1 FINAL;

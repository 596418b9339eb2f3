-- One row per closed session of one shopper.
CREATE TABLE IF NOT EXISTS sessions_v1 (
    session_key String,
    user_id String,
    session_id String,
    started_at DateTime64(3, 'UTC'),
    ended_at DateTime64(3, 'UTC'),
    views UInt32,
    searches UInt32,
    empty_searches UInt32,
    carts UInt32,
    purchases UInt32,
    products Array(String),
    intent LowCardinality(String),
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (started_at, session_key)
TTL ingested_at + INTERVAL 400 DAY;

CREATE VIEW IF NOT EXISTS sessions AS SELECT * FROM sessions_v1 FINAL;

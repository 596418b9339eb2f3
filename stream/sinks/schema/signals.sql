-- One row per review or chat message, as the model understood it. Arrays of one prefix run in parallel:
-- aspect[i] has sentiment aspect_sentiment[i]. Negative aspects per product and hour:
--   SELECT product_id, toStartOfHour(ts) AS hour, a AS aspect, count() AS texts
--   FROM signals ARRAY JOIN aspect AS a, aspect_sentiment AS s
--   WHERE s = 'negative' AND NOT late GROUP BY product_id, hour, aspect
CREATE TABLE IF NOT EXISTS signals_v1 (
    signal_id String,
    event_id String,
    ts DateTime64(3, 'UTC'),
    channel LowCardinality(String),
    user_id String,
    product_id String,
    category LowCardinality(String),
    session_id String,
    rating UInt8,
    text String,
    language LowCardinality(String),
    sentiment LowCardinality(String),
    sentiment_score Float64,
    aspect Array(LowCardinality(String)),
    aspect_sentiment Array(LowCardinality(String)),
    aspect_prob Array(Float64),
    aspect_evidence Array(Array(Tuple(UInt32, UInt32))),
    demand Array(LowCardinality(String)),
    demand_strength Array(Float64),
    demand_prob Array(Float64),
    demand_evidence Array(Array(Tuple(UInt32, UInt32))),
    keywords Array(String),
    entity_type Array(LowCardinality(String)),
    entity_text Array(String),
    entity_start Array(UInt32),
    entity_end Array(UInt32),
    fingerprint String,
    late UInt8,
    model LowCardinality(String),
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (product_id, ts, signal_id)
-- by the time of writing, so that a replay of past years is not deleted as it arrives
TTL ingested_at + INTERVAL 400 DAY;

CREATE VIEW IF NOT EXISTS signals AS SELECT * FROM signals_v1 FINAL;

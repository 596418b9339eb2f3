-- One row per trigger for the recommendation service; recommended[1] is the best product.
CREATE TABLE IF NOT EXISTS recommendations_v1 (
    trigger_id String,
    ts DateTime64(3, 'UTC'),
    user_id String,
    session_id String,
    intent LowCardinality(String),
    product_id String,
    recommended Array(String),
    recommended_score Array(Float64),
    recommended_reason Array(String),
    reason String,
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (user_id, ts, trigger_id)
TTL ingested_at + INTERVAL 400 DAY;

CREATE VIEW IF NOT EXISTS recommendations AS SELECT * FROM recommendations_v1 FINAL;

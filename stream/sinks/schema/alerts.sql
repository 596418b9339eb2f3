-- The table holds every state of every alert, once. `alert_transitions` shows them all, `alerts` the newest of each
-- alert: one write serves both, so they cannot disagree. No TTL: alerts are few and are the memory of operations.
-- Spans count Unicode code points of quote_text, end exclusive.
CREATE TABLE IF NOT EXISTS alerts_v1 (
    alert_id String,
    kind LowCardinality(String),
    scope LowCardinality(String),
    product_id String,
    category LowCardinality(String),
    label LowCardinality(String),
    severity UInt8,
    state LowCardinality(String),
    opened_at DateTime64(3, 'UTC'),
    closed_at Nullable(DateTime64(3, 'UTC')),
    updated_at DateTime64(3, 'UTC'),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    observed Float64,
    expected Float64,
    band_lo Float64,
    band_hi Float64,
    source Array(LowCardinality(String)),
    source_share Array(Float64),
    quote_event_id Array(String),
    quote_text Array(String),
    quote_spans Array(Array(Tuple(UInt32, UInt32))),
    rule LowCardinality(String),
    rule_version LowCardinality(String),
    model LowCardinality(String),
    note String,
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(updated_at)
ORDER BY (alert_id, updated_at);

CREATE VIEW IF NOT EXISTS alert_transitions AS SELECT * FROM alerts_v1 FINAL;

CREATE VIEW IF NOT EXISTS alerts AS
SELECT * FROM alerts_v1 FINAL ORDER BY alert_id, updated_at DESC LIMIT 1 BY alert_id;

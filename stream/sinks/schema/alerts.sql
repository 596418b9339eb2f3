-- The table holds every state of every alert, once. `alert_transitions` shows them all, `alerts` the newest of each
-- alert: one write serves both, so they cannot disagree. No TTL: alerts are few and are the memory of operations.
-- Spans count Unicode code points of quote_text, end exclusive. cause says why this state; surprise is -log10 of the
-- chance and threshold what it had to reach; origin_figure[i] has origin_value[i]; impact_figure is customers, customers_lo … revenue_hi.
CREATE TABLE IF NOT EXISTS alerts_v2 (
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
    cause String,
    statistic LowCardinality(String),
    since DateTime64(3, 'UTC'),
    surprise Float64,
    threshold Float64,
    weight Float64,
    reopened UInt16,
    until Nullable(DateTime64(3, 'UTC')),
    verdict LowCardinality(String),
    group_key String,
    group_id String,
    origin LowCardinality(String),
    origin_figure Array(LowCardinality(String)),
    origin_value Array(Float64),
    impact_figure Array(LowCardinality(String)),
    impact_value Array(Float64),
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(updated_at)
ORDER BY (alert_id, updated_at);

CREATE VIEW IF NOT EXISTS alert_transitions AS SELECT * FROM alerts_v2 FINAL;

CREATE VIEW IF NOT EXISTS alerts AS
SELECT * FROM alerts_v2 FINAL ORDER BY alert_id, updated_at DESC LIMIT 1 BY alert_id;

-- What operators said of alerts. The newest verdict per alert is its label:
--   SELECT alert_id, argMax(action, ts) FROM alert_actions WHERE action IN ('useful', 'not_useful') GROUP BY alert_id
CREATE TABLE IF NOT EXISTS alert_actions_v1 (
    action_id String,
    alert_id String,
    action LowCardinality(String),
    ts DateTime64(3, 'UTC'),
    author String,
    note String,
    until Nullable(DateTime64(3, 'UTC')),
    duration UInt64,
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(ts)
ORDER BY (alert_id, ts, action_id);

CREATE VIEW IF NOT EXISTS alert_actions AS SELECT * FROM alert_actions_v1 FINAL;

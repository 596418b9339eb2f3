-- What shoppers did and said about one product (scope 'product') or category (scope 'category', product_id '') in one
-- pane of event time; panes without anything have no row. All numbers are sums, so hours and windows are sums of rows.
-- A late event writes the whole row again with the next revision. label and label_count run in parallel: texts with a
-- negative aspect ('negative/packaging') or a demand ('demand/restock'). Mean price seen: price_cents / 100 / priced;
-- mean rating: rating_sum / rated. Negative packaging per product and hour:
--   SELECT product_id, toStartOfHour(pane_start) AS hour, sum(n) AS texts
--   FROM windows ARRAY JOIN label AS l, label_count AS n
--   WHERE scope = 'product' AND l = 'negative/packaging' GROUP BY product_id, hour
CREATE TABLE IF NOT EXISTS windows_v1 (
    pane_start DateTime64(3, 'UTC'),
    scope LowCardinality(String),
    product_id String,
    category LowCardinality(String),
    revision UInt32,
    views UInt32,
    searches UInt32,
    empty_searches UInt32,
    carts UInt32,
    uncarts UInt32,
    favorites UInt32,
    checkouts UInt32,
    purchases UInt32,
    returns UInt32,
    dwell_ms UInt64,
    abandons UInt32,
    comparisons UInt32,
    price_cents UInt64,
    priced UInt32,
    reviews UInt32,
    chats UInt32,
    negatives UInt32,
    rating_sum UInt32,
    rated UInt32,
    label Array(LowCardinality(String)),
    label_count Array(UInt32),
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(pane_start)
ORDER BY (pane_start, scope, product_id, category)
TTL ingested_at + INTERVAL 400 DAY;

CREATE VIEW IF NOT EXISTS windows AS SELECT * FROM windows_v1 FINAL;

-- One row per closed session of one shopper, with what the same user said in chats meanwhile. abandoned: it ended with
-- something in the cart; compared: most distinct products viewed in one category; sentiment: mean score of the chats
-- (-1 to 1), 0 without any; price_low and price_high: of the prices seen, 0 without any; cut: closed early for lack of
-- room.
CREATE TABLE IF NOT EXISTS sessions_v2 (
    session_key String,
    user_id String,
    session_id String,
    started_at DateTime64(3, 'UTC'),
    ended_at DateTime64(3, 'UTC'),
    events UInt32,
    views UInt32,
    dwell_ms UInt64,
    searches UInt32,
    empty_searches UInt32,
    carts UInt32,
    uncarts UInt32,
    favorites UInt32,
    checkouts UInt32,
    purchases UInt32,
    returns UInt32,
    abandoned UInt8,
    price_low Float64,
    price_high Float64,
    compared UInt32,
    products Array(String),
    chats UInt32,
    demands Array(LowCardinality(String)),
    sentiment Float64,
    intent LowCardinality(String),
    cut UInt8,
    ingested_at DateTime DEFAULT now()
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started_at)
ORDER BY (started_at, session_key)
TTL ingested_at + INTERVAL 400 DAY;

CREATE VIEW IF NOT EXISTS sessions AS SELECT * FROM sessions_v2 FINAL;

-- What the gate settled, counted from its ledger: what KPIs of the pipeline are computed from.

-- One row a minute (of the broker's append of the ledger record) and outcome, over all lanes. A batch of ledger records adds
-- to it in one transaction with the step of its partition in `sink_offset`, so each is counted once, however late.
create table settled_minute (
    minute timestamptz not null,
    outcome text collate "C" not null,
    records bigint not null check (records >= 0),
    -- For how long they waited, all told: each as long as the oldest record of its transaction.
    waited_ms bigint not null check (waited_ms >= 0),
    -- Something came since the minute's KPIs were computed.
    due boolean not null default true,
    primary key (minute, outcome)
);
create index settled_minute_due on settled_minute (minute) where due;

-- How far the ledger is counted in each of its partitions; as in the other databases that have a sink.
create table sink_offset (
    topic text not null,
    partition integer not null,
    -- The first offset that is not stored yet; null before the first batch.
    next bigint check (next >= 0),
    epoch bigint not null check (epoch > 0),
    updated_at timestamptz not null default now(),
    primary key (topic, partition)
) with (fillfactor = 50);

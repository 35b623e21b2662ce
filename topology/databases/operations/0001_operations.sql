-- What operators and the API ask about the pipeline. Plain tables: a few dozen rows a minute.

-- One row a KPI, label (such as a reject reason; empty where there is none) and minute. A row is recomputed from its
-- source and replaced, so that a job may run twice or late.
create table kpi_minute (
    minute timestamptz not null,
    kpi text not null,
    label text not null,
    value double precision not null,
    -- How many records or readings the value stands for, to weigh minutes against each other.
    records bigint not null check (records >= 0),
    primary key (kpi, label, minute)
);
create index kpi_minute_minute on kpi_minute (minute);

-- The last run of each recurring job of the watch.
create table job (
    name text primary key,
    started_at timestamptz not null,
    took_ms bigint not null,
    -- Rows that it wrote or removed.
    rows bigint not null,
    -- Why it failed, or null.
    problem text
);

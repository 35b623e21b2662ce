-- TimescaleDB's Apache edition has no continuous aggregates and no policies. The watch fills this table (it recomputes
-- each minute that `rollup_due` names) and drops old chunks; what it shows is what the Community edition's view shows.

-- Readings by minute, metric and what the devices ran. Sums and counts, so that minutes can be put together.
create table fleet_minute (
    minute timestamptz not null,
    metric text collate "C" not null,
    firmware text collate "C" not null,
    model text collate "C" not null,
    -- All of them, and those that are good: plausible, and small enough to be added up.
    readings bigint not null,
    good bigint not null,
    -- Of the good ones; null where there is none.
    total double precision,
    least double precision,
    greatest double precision,
    deviation double precision
);
-- Ten metrics and twenty versions make two million rows a week.
select create_hypertable('fleet_minute', by_range('minute', interval '7 days'), create_default_indexes => false);
create unique index fleet_minute_series on fleet_minute (metric, firmware, model, minute);
create index fleet_minute_minute on fleet_minute (minute desc);

insert into edition (name) values ('apache');

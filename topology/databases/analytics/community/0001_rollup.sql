-- TimescaleDB's Community edition does by itself what the watch does for the Apache edition: it rolls up, compresses and
-- (see `topology apply`, which knows for how long things are kept) drops what is old.

-- A database that was made for the Apache edition keeps its table of rolled-up minutes under another name: it can go
-- further back than the readings do, from which the view below is filled.
alter table if exists fleet_minute rename to fleet_minute_apache;

-- A device sends too few readings an hour to fill a compressed batch of a thousand rows by itself, so batches are of a
-- metric and sorted by device: each holds a few devices, and a query for one of them reads a batch or two a chunk.
alter table readings set (
    timescaledb.enable_columnstore,
    timescaledb.segmentby = 'metric',
    timescaledb.orderby = 'device, time desc'
);
-- By then nearly all late readings have come; later ones still go in.
call add_columnstore_policy('readings', after => interval '1 day');

-- The same columns as the Apache edition's table. Minutes that are not stored yet are computed when they are asked for.
create materialized view fleet_minute
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select time_bucket(interval '1 minute', time) as minute, metric, firmware, model,
       count(*) as readings,
       count(*) filter (where quality = 0 and abs(value) <= 1e100) as good,
       sum(value) filter (where quality = 0 and abs(value) <= 1e100) as total,
       min(value) filter (where quality = 0 and abs(value) <= 1e100) as least,
       max(value) filter (where quality = 0 and abs(value) <= 1e100) as greatest,
       stddev_pop(value) filter (where quality = 0 and abs(value) <= 1e100) as deviation
from readings
group by 1, 2, 3, 4
with no data;

-- The Community edition keeps its own account of what to roll up.
truncate rollup_due;

insert into edition (name) values ('community')
on conflict (singleton) do update set name = excluded.name, applied_at = now();

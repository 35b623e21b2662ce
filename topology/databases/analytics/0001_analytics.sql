-- What the watch writes about the fleet: readings, findings, what devices run, and how far each partition has come. Only
-- device tokens stand here, and no subject. What differs between TimescaleDB's editions (the rollup, compression,
-- retention) is not here: `pulsegate topology apply` adds it after asking the server which edition it is.
create extension if not exists timescaledb;

-- One row a reading of the clean topic, each exactly once.
--
-- A row takes 130 to 140 bytes and its entry in the index about 90 (half-full leaves: devices report in no order). At
-- 5,000 readings a second that is 2.5 GB of rows and 1.6 GB of index an hour. TimescaleDB wants the indexes of the chunks
-- that are written to below a quarter of memory, so a chunk of one hour suits a server of 8 GB; a fleet of a tenth of
-- that can have a chunk of half a day (`timescale.chunk_interval_hours`, which `topology apply` sets for new chunks).
--
-- No unique index: exactly once comes from `sink_offset`, and a unique index would cost a sixth of the ingest rate.
create table readings (
    -- When it was measured, as the device says; or when the broker took it, where the device's clock can't be believed
    -- (before what retention keeps, or more than a day ahead), because each new range of time makes a new chunk.
    time timestamptz not null,
    value double precision not null,
    origin_offset bigint not null,
    -- What the device said, where that is not `time`.
    claimed_time timestamptz,
    origin_partition integer not null,
    -- Which reading of the record.
    origin_index integer not null,
    -- 0 is good; the others have their names in the table `quality`.
    quality smallint not null,
    device text collate "C" not null,
    metric text collate "C" not null,
    -- UCUM, of `value`.
    unit text collate "C" not null,
    -- What the device ran when it measured; empty where events do not say.
    firmware text collate "C" not null,
    model text collate "C" not null
);
select create_hypertable('readings', by_range('time', interval '1 hour'), create_default_indexes => false);
-- The one index that queries need: a device's own series, newest first. What asks for the whole fleet asks the rollup.
create index readings_series on readings (device, metric, time desc);
-- The rollup reads by time alone. Rows come nearly in order of time, so a few bytes a megabyte are enough to find them.
create index readings_time on readings using brin (time) with (pages_per_range = 32, autosummarize = on);

-- The names of `readings.quality`.
create table quality (
    code smallint primary key,
    name text not null unique
);

-- One row a finding. Findings are few, so a unique index is cheap here: a job that runs twice, or a rebuild from scratch,
-- says nothing twice. The last column is the finding as `biometrics.findings` has it.
create table findings (
    time timestamptz not null,
    id uuid not null,
    kind text not null,
    series text collate "C" not null,
    device text collate "C",
    metric text collate "C" not null,
    detected_at timestamptz not null,
    value double precision,
    unit text not null,
    expected_low double precision,
    expected_high double precision,
    direction text not null,
    effect double precision,
    surprise double precision,
    severity text not null,
    reason text not null,
    baseline_n bigint not null,
    baseline_age interval not null,
    model text not null,
    notify boolean not null,
    group_id uuid,
    origin_partition integer not null,
    origin_offset bigint not null,
    origin_index bigint not null,
    document json not null
);
-- A fleet of 10,000 devices with a budget of findings makes some thousands a day: a week of them is a small chunk.
select create_hypertable('findings', by_range('time', interval '7 days'), create_default_indexes => false);
create unique index findings_id on findings (id, time);
create index findings_series on findings (series, time desc);
create index findings_time on findings (time desc);

-- What a device runs, from when on, as its own events say.
create table device_version (
    device text collate "C" not null,
    since timestamptz not null,
    firmware text not null,
    model text not null,
    origin_partition integer not null,
    origin_offset bigint not null,
    primary key (device, since)
);
create index device_version_since on device_version (since);

-- How far a sink has come in each partition. A batch and the step of its partition are one transaction, and the step is
-- taken only from where the writer believes to be and only by the newest who claimed it: whoever lost the partition
-- writes nothing.
create table sink_offset (
    topic text not null,
    partition integer not null,
    -- The first offset that is not stored yet; null before the first batch.
    next bigint check (next >= 0),
    epoch bigint not null check (epoch > 0),
    updated_at timestamptz not null default now(),
    primary key (topic, partition)
) with (fillfactor = 50);

-- What the detectors of a partition knew when they had seen everything before `next`.
create table detector_snapshot (
    topic text not null,
    partition integer not null,
    next bigint not null,
    model text not null,
    state bytea not null,
    taken_at timestamptz not null default now(),
    primary key (topic, partition)
);
-- Compressing states of many megabytes in every batch that has one would take longer than storing them.
alter table detector_snapshot alter column state set storage external;

-- Findings on their way to the topic. Written with the finding, and gone when the topic has it. A batch is fixed by its
-- number before it is produced, and the Kafka transaction that produces it commits the same number as an offset: after a
-- crash the one tells whether the other happened.
create table outbox (
    sequence bigint generated always as identity primary key,
    id uuid not null,
    key text not null,
    document bytea not null,
    batch bigint
);
create index outbox_batch on outbox (batch) where batch is not null;
create table outbox_head (
    singleton boolean primary key default true check (singleton),
    -- The number of the newest batch that was fixed.
    batch bigint not null
);
insert into outbox_head (batch) values (0);

-- What retention takes away, for a role that owns nothing: whole chunks of these three, and of nothing else.
create function drop_old_chunks(relation text, older_than timestamptz) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    if relation not in ('readings', 'findings', 'fleet_minute') then
        raise exception 'nothing is dropped from %', relation using errcode = 'insufficient_privilege';
    end if;
    return (select count(*) from drop_chunks(format('public.%I', relation)::regclass, older_than => older_than));
end $$;

-- Minutes whose readings came since the rollup last ran, one row a batch and minute; the Apache edition's rollup takes
-- them away. The Community edition keeps its own account.
create table rollup_due (
    minute timestamptz not null
);

-- Which edition the schema was completed for.
create table edition (
    singleton boolean primary key default true check (singleton),
    name text not null check (name in ('apache', 'community')),
    applied_at timestamptz not null default now()
);

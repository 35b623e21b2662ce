-- What is measured of rollouts of firmware, an hour of readings at a time: at 5,000 readings a second the three days that
-- are compared are 1.3 billion rows, and nobody waits for one statement over them. What is measured is kept until the
-- rollout is judged no more, so that whoever is cut short goes on where it stopped. Ordinary tables, in both editions.
--
-- Deleting a row of `rollout` deletes all that belongs to it.
create table rollout (
    id integer generated always as identity primary key,
    firmware text not null,
    model text not null,
    -- When it began (UTC).
    day timestamptz not null,
    chosen_at timestamptz not null default now(),
    -- As jobs name it.
    unique (day, firmware, model)
);

-- Whose readings are compared, chosen once: all hours have to be of the same devices.
create table rollout_device (
    rollout integer not null references rollout on delete cascade,
    device text collate "C" not null,
    -- Whether it came to the firmware on that day; else it is a control.
    treated boolean not null,
    primary key (rollout, device)
);

-- The hours that are measured, also those in which nothing was: 24 of the day before and 48 of the two days after. The
-- mark and what was measured are one transaction, so an hour is measured once and as a whole, whoever runs the job.
create table rollout_hour (
    rollout integer not null references rollout on delete cascade,
    -- Since the beginning of the rollout's day.
    hour smallint not null check (hour between -24 and -1 or hour between 24 and 71),
    measured_at timestamptz not null default now(),
    primary key (rollout, hour)
);

-- One row a device, metric, unit and hour: 1.1 million rows or 100 MB a rollout of 4,000 devices with four metrics.
create table rollout_median (
    rollout integer not null,
    hour smallint not null,
    -- Of the good readings.
    readings integer not null,
    median double precision not null,
    device text collate "C" not null,
    metric text collate "C" not null,
    unit text collate "C" not null,
    foreign key (rollout, hour) references rollout_hour on delete cascade
);
-- For reading a rollout and for deleting it, hour by hour: 8 MB beside those 100, and 0.6 s to delete them. Not unique: the
-- mark of the hour is, and an index over devices and metrics would be nearly as large as the table.
create index rollout_median_hour on rollout_median (rollout, hour);

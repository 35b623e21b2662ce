-- Anomalies wait in the outbox for a while: when other devices show the same meanwhile, one finding speaks for all of them.
alter table outbox add column due timestamptz not null default now();
-- Of the finding: with its id it finds the row in `findings`. Null in what was there before this column; it is due.
alter table outbox add column time timestamptz;

-- Where the log ended when it was found to end before `next`, which it never does as long as nobody deletes it or loses its
-- end. Records that come to such offsets later are others. Nothing is stored of the partition until somebody has set `next` to
-- where the log is to be read on, and this to null.
alter table sink_offset add column log_end bigint check (log_end >= 0);

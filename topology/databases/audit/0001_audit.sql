-- The audit log. Each lane is a log of its own (RFC 6962): an entry's place is its number, the lane's head is the size and
-- the Merkle tree's frontier, and a signed checkpoint says what the head was at a time. Nothing in here has to be
-- believed: `pulsegate audit verify` recomputes it, and the key that signs never comes near this database.
--
-- Nobody changes or deletes an entry or a checkpoint: no role may, and a change by the owner is found.

create table audit_lane (
    -- `<raw topic>/<partition>` for the ledger of a lane, `administration` for what people and programs did.
    lane text collate "C" primary key check (octet_length(lane) between 1 and 300),
    -- How many entries it has.
    size bigint not null default 0 check (size >= 0),
    -- The roots of the complete subtrees, the largest first: all that appending needs of the entries before.
    frontier bytea not null default '' check (octet_length(frontier) = 32 * bit_count(size::bit(64))),
    opened_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- A head only ever goes forward. It is kept by the writer's conditions already; this binds whoever writes by hand.
create function audit_lane_grows() returns trigger language plpgsql as $$
begin
    if new.lane <> old.lane or new.size < old.size then
        raise exception 'the head of an audit lane only goes forward' using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
create trigger audit_lane_grows before update on audit_lane for each row execute function audit_lane_grows();

-- An entry is its bytes, and the leaf of the tree is made of all of them: there is no column beside them that could be
-- changed unseen. 64 KiB is what the format of published logs (C2SP tlog-tiles) allows an entry.
create table audit_entry (
    lane text collate "C" not null references audit_lane,
    seq bigint not null check (seq >= 0),
    entry bytea not null check (octet_length(entry) between 1 and 65535),
    primary key (lane, seq)
);

-- Every few seconds one a lane, also where nothing came: its age shows whether the log is alive. The time is signed too.
create table audit_checkpoint (
    lane text collate "C" not null references audit_lane,
    size bigint not null check (size >= 0),
    signed_at timestamptz not null,
    -- At that size; whether it is the right one shows in the root of the note.
    frontier bytea not null check (octet_length(frontier) = 32 * bit_count(size::bit(64))),
    -- The signed note (C2SP tlog-checkpoint).
    note text not null check (octet_length(note) <= 262144),
    primary key (lane, size, signed_at)
);

-- How far the log has come in each partition of the ledger topic. A batch of entries and the step of its partition are
-- one transaction, and the step is taken only from where the writer believes to be and only by the newest who claimed it.
create table sink_offset (
    topic text not null,
    partition integer not null,
    -- The first offset that is not stored yet; null before the first batch.
    next bigint check (next >= 0),
    epoch bigint not null check (epoch > 0),
    updated_at timestamptz not null default now(),
    primary key (topic, partition)
) with (fillfactor = 50);

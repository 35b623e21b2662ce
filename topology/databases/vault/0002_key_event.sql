-- What was done to keys, on its way to the audit log: a row is written in the transaction that writes the keys, whoever
-- does it, also by hand, and a gate takes it from here once the audit log has it. So no key is made that the audit log
-- will not tell of, and none has to wait for the audit database. Keys from before this migration have no event.

create table key_event (
    -- The event's number in the audit log, by which one that was recorded twice is recognised. Numbers have gaps where a
    -- transaction was rolled back.
    id bigint generated always as identity primary key,
    made_at timestamptz not null default now(),
    -- The login, not the owner of the trigger.
    made_by text not null default session_user,
    kind text not null check (kind in ('kek.add', 'tenant.add', 'data_key.make', 'quarantine_key.make')),
    tenant text check ((kind = 'kek.add') = (tenant is null)),
    -- The KEK that was added, or that wraps the branch key of the tenant that was.
    kek text check ((kind in ('kek.add', 'tenant.add')) = (kek is not null)),
    keys integer not null check (keys > 0),
    -- How many of them take the place of an older generation.
    rotations integer not null check (rotations between 0 and keys),
    -- The ids that stand in front of everything that these keys seal. An entry of the audit log has at most 65,535 bytes
    -- and is read with thousands of others, so a statement that makes more keys than this leaves more than one event.
    key_ids bigint[] not null default '{}'
        check (cardinality(key_ids) <= 500 and cardinality(key_ids) = case when kek is null then keys else 0 end)
);

-- The triggers see a statement's rows at once: a gate makes up to 5,000 keys in one. They write with their owner's rights,
-- so that no service can write an event of its own making, or change one.

create function key_event_kek() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into key_event (kind, kek, keys, rotations)
    select 'kek.add', m.id, 1, (exists (select from kek k where k.id not in (select id from made)))::integer
    from made m order by m.id;
    return null;
end $$;
create trigger key_event after insert on kek
    referencing new table as made for each statement execute function key_event_kek();

create function key_event_tenant() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into key_event (kind, tenant, kek, keys, rotations)
    select 'tenant.add', m.name, m.kek_id, 1, 0 from made m order by m.id;
    return null;
end $$;
create trigger key_event after insert on tenant
    referencing new table as made for each statement execute function key_event_tenant();

create function key_event_subject_key() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into key_event (kind, tenant, keys, rotations, key_ids)
    select 'data_key.make', t.name, count(*), count(*) filter (where p.generation > 1), array_agg(p.key_id order by p.key_id)
    from (
        select o.*, (row_number() over (partition by o.tenant_id order by o.key_id) - 1) / 500 as part
        from (
            -- Not a join: its plan is kept for as long as the session, and one that was made for a small table reads
            -- all of it when it is large.
            select (select s.tenant_id from subject s where s.id = m.subject_id) as tenant_id, m.key_id, m.generation
            from made m
        ) o
    ) p
    join tenant t on t.id = p.tenant_id
    group by t.name, p.part order by t.name, p.part;
    return null;
end $$;
create trigger key_event after insert on subject_key
    referencing new table as made for each statement execute function key_event_subject_key();

create function key_event_quarantine_key() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into key_event (kind, tenant, keys, rotations, key_ids)
    select 'quarantine_key.make', t.name, count(*), count(*) filter (where p.generation > 1),
           array_agg(p.key_id order by p.key_id)
    from (
        select m.*, (row_number() over (partition by m.tenant_id order by m.key_id) - 1) / 500 as part from made m
    ) p
    join tenant t on t.id = p.tenant_id
    group by t.name, p.part order by t.name, p.part;
    return null;
end $$;
create trigger key_event after insert on quarantine_key
    referencing new table as made for each statement execute function key_event_quarantine_key();

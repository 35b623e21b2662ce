-- The vault: device keys and subject keys. Every secret in here is wrapped (AES-256-GCM) under a tenant's branch key, and
-- the branch key under a KEK that this database never sees. No subject id stands here in any readable form.

-- The KEKs that branch keys were wrapped under: a name and a commitment, so that a gate that holds another KEK says so
-- at once and by name, not by a failed decryption.
create table kek (
    id text primary key check (id ~ '^[0-9a-f]{16}$'),
    commitment bytea not null check (octet_length(commitment) = 32),
    created_at timestamptz not null default now()
);

-- Lengths are checked apart from letters throughout: a counted repetition in a regular expression ({1,128}) costs a
-- hundred microseconds a row.

-- A tenant's one stored secret is its branch key; token, lookup, quarantine and wrapping keys are derived from it.
create table tenant (
    id integer generated always as identity primary key check (id between 1 and 65535),
    name text not null unique check (octet_length(name) <= 63 and name ~ '^[a-z0-9][a-z0-9._-]*$'),
    kek_id text not null references kek,
    branch_wrapped bytea not null check (octet_length(branch_wrapped) between 32 and 512),
    branch_commitment bytea not null check (octet_length(branch_commitment) = 32),
    created_at timestamptz not null default now()
);

create table device (
    id bigint generated always as identity primary key,
    tenant_id integer not null references tenant,
    name text not null unique check (octet_length(name) between 1 and 128 and name !~ '[[:cntrl:]]'),
    class text not null check (octet_length(class) <= 31 and class ~ '^[a-z0-9][a-z0-9._-]*$'),
    token_salt bytea not null check (octet_length(token_salt) = 16),
    created_at timestamptz not null default now()
);

-- Numbers every change of a device key, in the order in which the changes commit (see the triggers).
create sequence device_key_revision as bigint no cycle;

create table device_key (
    -- Printable ASCII that stands in JSON as it is.
    kid text primary key check (octet_length(kid) between 1 and 128 and kid !~ '[^ !#-[\]-~]'),
    device_id bigint not null references device,
    profile text not null check (profile in ('jws', 'webhook')),
    alg text not null check (alg in ('HS256', 'Ed25519')),
    state text not null check (state in ('pending', 'active', 'verify_only', 'revoked')),
    secret_wrapped bytea check (octet_length(secret_wrapped) between 32 and 512),
    public_key bytea check (octet_length(public_key) = 32),
    revision bigint not null unique,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    check (case alg when 'HS256' then secret_wrapped is not null and public_key is null
                    else public_key is not null and secret_wrapped is null and profile = 'jws' end),
    check ((state = 'revoked') = (revoked_at is not null))
);
create index device_key_device on device_key (device_id);

-- The change feed of a running gate is `select … where revision > :last order by revision`. A plain sequence would lose
-- changes: a transaction that took revision 7 can commit after one that took 8, and a gate that has seen 8 never asks
-- for 7 again. So a writer takes this lock before its first revision and keeps it until its commit is visible:
-- revisions are taken, and become visible, in one order. Device changes are rare and an import is one transaction, so
-- that writers queue here costs nothing that anybody would miss. Being a trigger, it also binds whoever writes by hand.
create function device_key_lock() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('pulsegate device_key revision', 0));
    return null;
end $$;
create trigger device_key_lock before insert or update on device_key
    for each statement execute function device_key_lock();

create function device_key_revise() returns trigger language plpgsql as $$
begin
    new.revision := nextval('device_key_revision');
    return new;
end $$;
create trigger device_key_revise before insert or update on device_key
    for each row execute function device_key_revise();

-- Two keys of a device may verify, so that rotation needs no pause; a third would be one that somebody forgot to revoke.
create function device_key_limit() returns trigger language plpgsql as $$
begin
    if exists (
        select from device_key k
        where k.state in ('active', 'verify_only')
          and k.device_id in (select c.device_id from changed c where c.state in ('active', 'verify_only'))
        group by k.device_id having count(*) > 2
    ) then
        raise exception 'a device would have more than two keys that are active or verify_only'
            using errcode = 'check_violation', constraint = 'device_key_limit';
    end if;
    return null;
end $$;
create trigger device_key_limit_insert after insert on device_key
    referencing new table as changed for each statement execute function device_key_limit();
create trigger device_key_limit_update after update on device_key
    referencing new table as changed for each statement execute function device_key_limit();

create table subject (
    id bigint generated always as identity primary key,
    tenant_id integer not null references tenant,
    -- HMAC-SHA256 of the subject id under the tenant's lookup key, cut to 16 bytes.
    lookup bytea not null check (octet_length(lookup) = 16),
    -- What the subject's token is made with. It dies with the row, and with it the link between tokens and subject.
    salt bytea not null check (octet_length(salt) = 16),
    created_at timestamptz not null default now(),
    unique (tenant_id, lookup)
);

-- Data encryption keys of subjects. The newest generation seals, all of them open.
create table subject_key (
    key_id bigint primary key check (key_id between 1 and 4294967295),
    subject_id bigint not null references subject on delete cascade,
    generation integer not null check (generation > 0),
    wrapped bytea not null check (octet_length(wrapped) between 32 and 512),
    commitment bytea not null check (octet_length(commitment) = 32),
    -- How many encryptions gates have reported. It lags what they did by at most one report interval each.
    encryptions bigint not null default 0 check (encryptions >= 0),
    created_at timestamptz not null default now(),
    unique (subject_id, generation)
);

-- Answers, in one round trip, the current key of every subject asked for, and makes what does not exist yet from the
-- candidates given: subjects, and keys where a subject has none or its newest is too old or used too often. The arrays
-- are parallel.
--
-- Each statement sees what committed before it (READ COMMITTED), so a gate that lost a race, and whose insert did
-- nothing, reads the winner's row in the last statement: two gates end with the same key. Rows are inserted in the order
-- of their lookup, so gates that insert the same subjects wait for each other and never in a circle. A subject without
-- an answer (its candidate's random key id was taken, or it was shredded meanwhile) is asked for again.
create function subject_keys(
    tenants integer[], lookups bytea[], salts bytea[], key_ids bigint[], wraps bytea[], commitments bytea[],
    age_max interval, encryptions_max bigint
) returns table (
    tenant_id integer, lookup bytea, salt bytea, key_id bigint, wrapped bytea, commitment bytea, encryptions bigint,
    created_ms bigint
) language plpgsql as $$
#variable_conflict use_column
begin
    insert into subject (tenant_id, lookup, salt)
    select i.tenant_id, i.lookup, i.salt
    from unnest(tenants, lookups, salts) as i (tenant_id, lookup, salt)
    where not exists (select from subject s where s.tenant_id = i.tenant_id and s.lookup = i.lookup)
    order by i.tenant_id, i.lookup
    on conflict do nothing;

    insert into subject_key (key_id, subject_id, generation, wrapped, commitment)
    select i.key_id, s.id, coalesce(newest.generation, 0) + 1, i.wrapped, i.commitment
    from unnest(tenants, lookups, key_ids, wraps, commitments) as i (tenant_id, lookup, key_id, wrapped, commitment)
    join subject s on s.tenant_id = i.tenant_id and s.lookup = i.lookup
    left join lateral (
        select k.generation, k.created_at, k.encryptions from subject_key k
        where k.subject_id = s.id order by k.generation desc limit 1
    ) newest on true
    where newest.generation is null or newest.created_at <= now() - age_max or newest.encryptions >= encryptions_max
    order by i.tenant_id, i.lookup
    on conflict do nothing;

    return query
    select s.tenant_id, s.lookup, s.salt, k.key_id, k.wrapped, k.commitment, k.encryptions,
           (extract(epoch from k.created_at) * 1000)::bigint
    from unnest(tenants, lookups) as i (tenant_id, lookup)
    join subject s on s.tenant_id = i.tenant_id and s.lookup = i.lookup
    join lateral (
        select * from subject_key newest where newest.subject_id = s.id order by newest.generation desc limit 1
    ) k on true;
end $$;

-- The keys that deadletter payloads are sealed to, one series a tenant. The key itself is derived from the branch key
-- and this id; the newest generation seals, all of them open.
create table quarantine_key (
    key_id bigint primary key check (key_id between 1 and 4294967295),
    tenant_id integer not null references tenant,
    generation integer not null check (generation > 0),
    encryptions bigint not null default 0 check (encryptions >= 0),
    created_at timestamptz not null default now(),
    unique (tenant_id, generation)
);

-- The same bargain as `subject_keys`, for the quarantine keys of the tenants given.
create function quarantine_keys(tenants integer[], key_ids bigint[], age_max interval, encryptions_max bigint)
returns table (tenant_id integer, key_id bigint, encryptions bigint) language plpgsql as $$
#variable_conflict use_column
begin
    insert into quarantine_key (key_id, tenant_id, generation)
    select i.key_id, i.tenant_id, coalesce(newest.generation, 0) + 1
    from unnest(tenants, key_ids) as i (tenant_id, key_id)
    left join lateral (
        select k.generation, k.created_at, k.encryptions from quarantine_key k
        where k.tenant_id = i.tenant_id order by k.generation desc limit 1
    ) newest on true
    where newest.generation is null or newest.created_at <= now() - age_max or newest.encryptions >= encryptions_max
    order by i.tenant_id
    on conflict do nothing;

    return query
    select i.tenant_id, k.key_id, k.encryptions
    from unnest(tenants) as i (tenant_id)
    join lateral (
        select * from quarantine_key newest
        where newest.tenant_id = i.tenant_id order by newest.generation desc limit 1
    ) k on true;
end $$;

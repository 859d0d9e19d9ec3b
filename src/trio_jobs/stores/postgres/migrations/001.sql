-- The jobs of several servers. A migration that a release has applied never changes.

create schema trio_jobs;

create table trio_jobs.schema_version (
    version int not null,
    compatible_from int not null  -- the oldest version whose programs may use this schema
);
insert into trio_jobs.schema_version values (1, 1);

create type trio_jobs.outcome as enum ('succeeded', 'failed', 'timed_out', 'cancelled', 'interrupted');

-- The servers. No id is used again; the name is for people.
create table trio_jobs.members (
    id bigint generated always as identity primary key,
    name text not null,
    started_at timestamptz not null default clock_timestamp(),
    lease_until timestamptz not null,
    lease float8 not null,  -- seconds
    session int not null default 0,  -- raised by each connection that begins to make rounds
    -- By type, and "default": [whether its jobs may run again after their server was lost, and
    -- after how many interruptions they end]. A sweep by another server decides by it.
    handlers jsonb not null
) with (fillfactor = 50);

-- No row says its status, so that none can contradict itself. A job has completed if `completed_at`
-- is set; otherwise it is processing if `started_at` is set; otherwise it is pending. A pending job
-- with an `owner` is fetched: this server begins it soon.
create table trio_jobs.jobs (
    id uuid primary key,
    type text not null check (type <> ''),
    payload json,                           -- null: the JSON null
    created_at timestamptz not null default clock_timestamp(),
    key text collate "C",                   -- an update of the system does not change its order
    key_digest bytea,                       -- null: submitted by SQL
    rerun_of uuid,
    submitted_by text,
    trace text,
    owner bigint,                           -- the member that has fetched it
    watcher bigint,                         -- the member with a client that waits; 0: several
    fetches int not null default 0,         -- raised by each fetch, never lowered: the fence
    attempts int not null default 0,        -- raised by each fetch
    interruptions int not null default 0,
    snoozes int not null default 0,
    run_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    duration float8,                        -- seconds, by the clock of the server that ran it
    outcome trio_jobs.outcome,
    error_type text,
    error_message text,
    cancel_requested boolean not null default false,
    rerun_as uuid,
    progress json,
    lines json,
    result json,                            -- null: the JSON null, if it has succeeded
    check ((completed_at is null) = (outcome is null)),
    check (owner is null or completed_at is null),
    check (run_at is null or (owner is null and completed_at is null)),
    check (started_at is null or owner is not null or completed_at is not null)
) with (
    -- Room for a row's next version on its own page: then a fetch writes no index.
    fillfactor = 50,
    -- A job leaves two or three dead rows behind. By default a vacuum waits until a fifth of the
    -- table is dead, and sleeps while it works.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

-- No index has a column that a fetch changes. `jobs_open` and `jobs_suspect` begin with another
-- column than the primary key, and their queries sort by it: otherwise the planner, which sees them
-- empty, may take the primary key instead, and keep to it when the table is large.
create index jobs_open on trio_jobs.jobs (run_at nulls first, id) where completed_at is null;
create index jobs_suspect on trio_jobs.jobs (interruptions, id)
    where completed_at is null and interruptions > 0;
create unique index jobs_key on trio_jobs.jobs (key) where key is not null;
create index jobs_completed on trio_jobs.jobs (completed_at) where completed_at is not null;
-- For lists of the jobs that did not succeed. Few jobs are in these.
create index jobs_dead on trio_jobs.jobs (completed_at, id) where outcome <> 'succeeded';
create index jobs_dead_ids on trio_jobs.jobs (outcome, id) where outcome <> 'succeeded';


-- Whole microseconds since 1970. Were it immutable, which `extract` is not, no query would inline it.
create function trio_jobs.micros(at timestamptz) returns bigint
language sql stable parallel safe as $$ select (extract(epoch from at) * 1000000)::bigint $$;

-- The channel of a member, or that of all members. The latter carries
--
--   <id>             a job may be fetched, this one, or one with a greater id
--   n<id>            this new job may be fetched
--   w<micros>        at this time one may be fetched
--   d<id>            the job has ended
--
-- and that of a member `d<id>`, and `c<id>`: a job that it has fetched is to be cancelled.
create function trio_jobs.channel(member bigint) returns text
language sql immutable parallel safe as $$
    select case when member = 0 then 'trio_jobs' else 'trio_jobs_m' || member end
$$;

create function trio_jobs.tell_pending(id uuid) returns void
language plpgsql as $$
begin
    if id is not null then
        perform pg_notify('trio_jobs', id::text);
    end if;
end
$$;

-- Tell of jobs that wait for a time, unless other jobs have waited for an earlier one.
create function trio_jobs.tell_time(at timestamptz, before timestamptz) returns void
language plpgsql as $$
begin
    if at is not null and (before is null or at < before) then
        perform pg_notify('trio_jobs', 'w' || trio_jobs.micros(at));
    end if;
end
$$;

-- The next time at which a job may be fetched that waits for one.
create function trio_jobs.next_time() returns timestamptz
language plpgsql as $$
declare
    -- A variable: the planner finds no place in an index for a value that changes meanwhile.
    at timestamptz := clock_timestamp();
begin
    return (select j.run_at from trio_jobs.jobs j where j.completed_at is null and j.run_at > at
        order by j.run_at nulls first, j.id limit 1);
end
$$;


-- A row of the answer of a round:
--
--   l  the member is gone; nothing was fetched for it
--   x  the move, or the begin, of the job `id` had no effect
--   o  the watched job `id` has ended, or is not there
--   f  the job was fetched; in the order of `number`
--   t  the new job `id` was fetched; the others that no row names are in, and pending
--   k  the new job `id` is not in: there is a job with its key
--   b  a transaction that has not ended yet has the key of the new job `id`
--   n  so many jobs are unfinished, or more: `number`
--
-- With `attempts` as they were before the fetch.
create type trio_jobs.answer as (
    kind "char", id uuid, number int, fetches int, type text, payload text, created_at bigint,
    key text, key_digest bytea, rerun_of uuid, submitted_by text, trace text, attempts int,
    interruptions int, snoozes int, run_at bigint, error_type text, error_message text,
    cancel_requested boolean, rerun_as uuid, progress text, lines text
);



-- Record moves; without an outcome the job is pending again. Returns the ids of the moves that had no
-- effect. First lock, then write: a row that
-- somebody has changed since a statement began is locked where it is now, and only the next
-- statement sees it there. Each row is looked up on its own (`limit 1`): for a join the planner may
-- read the whole index for each of them.
create function trio_jobs.record(
    me bigint, m_id uuid[], m_owner bigint[], m_fetches int[], m_attempts int[], m_snoozes int[],
    m_run_at timestamptz[], m_started_at timestamptz[], m_completed_at timestamptz[],
    m_duration float8[], m_outcome text[], m_error_type text[], m_error_message text[],
    m_cancel boolean[], m_progress text[], m_lines text[], m_result text[]
) returns uuid[]
language plpgsql as $$
declare
    before timestamptz;
    places tid[];
    pending uuid;
    next_time timestamptz;
    number_recorded int;
    number_told int;
begin
    if cardinality(m_run_at) > 0 then
        before := trio_jobs.next_time();
    end if;
    select array_agg(p.place order by m.n) into places
    from unnest(m_id, m_owner, m_fetches) with ordinality as m(id, owner, fetches, n)
    left join lateral (
        select j.ctid as place from trio_jobs.jobs j
        where j.id = m.id and j.owner = m.owner and j.fetches = m.fetches limit 1 for update
    ) p on true;
    with moved as (
        update trio_jobs.jobs j set
            owner = null, attempts = m.attempts, snoozes = coalesce(m.snoozes, 0),
            run_at = case when j.cancel_requested and m.run_at > clock_timestamp() then clock_timestamp()
                else m.run_at end,
            started_at = m.started_at, completed_at = m.completed_at, duration = m.duration,
            outcome = m.outcome::trio_jobs.outcome, error_type = m.error_type,
            error_message = m.error_message,
            cancel_requested = j.cancel_requested or coalesce(m.cancel, false),
            progress = m.progress::json, lines = m.lines::json, result = m.result::json
        from unnest(places, m_attempts, m_snoozes, m_run_at, m_started_at, m_completed_at,
                m_duration, m_outcome, m_error_type, m_error_message, m_cancel, m_progress, m_lines,
                m_result)
            as m(place, attempts, snoozes, run_at, started_at, completed_at, duration,
                outcome, error_type, error_message, cancel, progress, lines, result)
        where j.ctid = m.place
        returning j.id, j.completed_at, j.run_at,
            case when j.completed_at is not null and j.watcher is distinct from nullif(me, 0)
                then j.watcher end as watcher
    )
    select count(*), min(m.run_at),
        (min(m.id::text collate "C") filter (where m.completed_at is null and m.run_at is null))::uuid,
        count(pg_notify(trio_jobs.channel(m.watcher), 'd' || m.id)) filter (where m.watcher is not null)
    into number_recorded, next_time, pending, number_told from moved m;
    if pending is not null then
        perform trio_jobs.tell_pending(pending);
    end if;
    if next_time is not null then
        perform trio_jobs.tell_time(next_time, before);
    end if;
    if number_recorded = cardinality(m_id) then
        return '{}';
    end if;
    return array(
        select m.id from unnest(places, m_id, m_fetches, m_attempts, m_completed_at, m_outcome)
            as m(place, id, fetches, attempts, completed_at, outcome)
        where m.place is null
        -- The answer of this round was lost, and they were recorded then.
        and not exists (
            select from trio_jobs.jobs j where j.id = m.id and j.owner is null
            and j.fetches = m.fetches and j.attempts = m.attempts
            and j.completed_at is not distinct from m.completed_at
            and j.outcome is not distinct from m.outcome::trio_jobs.outcome));
end
$$;


-- Pending jobs that are locked for this server: their places, and the times for which the first of
-- them have waited. `number`: how many were found with those that are beyond the limits of their
-- types. `types`: of those that count. `passed_over`: the first that is beyond a limit.
create type trio_jobs.locked_jobs as (
    places tid[], times timestamptz[], number int, types text[], passed_over uuid
);

-- Find pending jobs: one that was in a crash first, then those whose time has come, then those
-- behind the id `low`. A job whose cancel was requested is of any type.
create function trio_jobs.find_jobs(
    low uuid, want int, wanted text[], without text[], l_type text[], l_left int[], suspect boolean
) returns trio_jobs.locked_jobs
language plpgsql as $$
#variable_conflict use_column
declare
    locked trio_jobs.locked_jobs;
    places tid[] := '{}';
    times timestamptz[] := '{}';
    at timestamptz := clock_timestamp();  -- see `next_time`
begin
    if suspect then
        select places || array_agg(s.place), times || array_agg(s.run_at) into places, times from (
            select j.ctid as place, j.run_at from trio_jobs.jobs j
            where j.completed_at is null and j.interruptions > 0 and j.owner is null
                and coalesce(j.run_at <= at, true) and not j.cancel_requested
                and coalesce(j.type = any (wanted), true) and j.type <> all (without)
            order by j.interruptions, j.id limit 1 for update skip locked
        ) s;
    end if;
    select places || array_agg(l.place), times || array_agg(l.run_at) into places, times from (
        select j.ctid as place, j.run_at from trio_jobs.jobs j
        where j.completed_at is null and j.run_at <= at
            and (j.cancel_requested or (j.interruptions = 0
                and coalesce(j.type = any (wanted), true) and j.type <> all (without)))
        order by j.run_at nulls first, j.id
        limit want - cardinality(places) for update skip locked
    ) l;
    places := places || array(
        select j.ctid from trio_jobs.jobs j
        where j.completed_at is null and j.run_at is null and j.owner is null and j.id > low
            and (j.cancel_requested or (j.interruptions = 0
                and coalesce(j.type = any (wanted), true) and j.type <> all (without)))
        order by j.run_at nulls first, j.id
        limit want - cardinality(places) for update skip locked);
    locked.number := cardinality(places);
    if cardinality(l_type) > 0 then
        select coalesce(array_agg(f.place order by f.n) filter (where f.fits), '{}'),
            array_agg(f.run_at order by f.n) filter (where f.fits),
            array_agg(f.type) filter (where f.fits and not f.cancel_requested),
            (min(f.id::text collate "C") filter (where not f.fits))::uuid
        into places, times, locked.types, locked.passed_over
        from (
            select p.*, j.id, j.type, j.cancel_requested,
                j.cancel_requested or l.remaining is null or row_number() over (
                    partition by j.type, j.cancel_requested order by p.n) <= l.remaining as fits
            from unnest(places, times) with ordinality as p(place, run_at, n)
            join trio_jobs.jobs j on j.ctid = p.place
            left join unnest(l_type, l_left) as l(type, remaining) on l.type = j.type
        ) f;
    end if;
    locked.places := places;
    locked.times := times;
    return locked;
end
$$;


-- Insert new jobs, or those at some places of the arrays; returns the ids of those whose id and key
-- were not there.
create function trio_jobs.insert_new(
    i_id uuid[], i_type text[], i_payload text[], i_created_at timestamptz[], i_run_at timestamptz[],
    i_key text[], i_key_digest bytea[], i_rerun_of uuid[], i_submitted_by text[], i_trace text[],
    owners bigint[], places int[] = null
) returns uuid[]
language plpgsql as $$
#variable_conflict use_column
declare
    inserted uuid[];
begin
    with done as (
        insert into trio_jobs.jobs (id, type, payload, created_at, run_at, key, key_digest,
            rerun_of, submitted_by, trace, owner, fetches, attempts)
        select n.id, n.type, n.payload::json, n.created_at, n.run_at, n.key, n.key_digest, n.rerun_of,
            n.submitted_by, n.trace, n.owner, (n.owner is not null)::int, (n.owner is not null)::int
        from unnest(i_id, i_type, i_payload, i_created_at, i_run_at, i_key, i_key_digest, i_rerun_of,
                i_submitted_by, i_trace, owners) with ordinality
            as n(id, type, payload, created_at, run_at, key, key_digest, rerun_of, submitted_by,
                trace, owner, place)
        where places is null or n.place = any (places)
        on conflict do nothing returning id
    )
    select array_agg(d.id) into inserted from done d;
    return coalesce(inserted, '{}');
end
$$;


-- Take in what was submitted; the first `eager` of those that may begin now are fetched with it.
create function trio_jobs.take_in(
    me bigint, eager int, l_type text[], l_left int[], i_id uuid[], i_type text[], i_payload text[],
    i_created_at timestamptz[], i_run_at timestamptz[], i_key text[], i_key_digest bytea[],
    i_submitted_by text[], i_trace text[], i_fetchable boolean[]
) returns trio_jobs.answer[]
language plpgsql as $$
#variable_conflict use_column
declare
    lines trio_jobs.answer[] := '{}';
    line trio_jobs.answer;
    before timestamptz;
    owners bigint[] := '{}';
    number_mine int := 0;
    limit_at int;
    inserted uuid[];
    busy uuid[] := '{}';
    pending uuid;
begin
    if cardinality(i_run_at) > 0 then
        before := trio_jobs.next_time();
    end if;
    for n in 1 .. cardinality(i_id) loop
        exit when eager <= number_mine;
        limit_at := array_position(l_type, i_type[n]);
        if i_fetchable[n] and i_run_at[n] is null and coalesce(l_left[limit_at] > 0, true) then
            owners[n] := me;
            number_mine := number_mine + 1;
            if limit_at is not null then
                l_left[limit_at] := l_left[limit_at] - 1;
            end if;
        end if;
    end loop;
    if cardinality(i_key) = 0 then
        inserted := trio_jobs.insert_new(i_id, i_type, i_payload, i_created_at, i_run_at,
            i_key, i_key_digest, '{}', i_submitted_by, i_trace, owners);
    else
        -- A user's transaction may have one of the keys, and may not end for a long time.
        perform set_config('lock_timeout', '100ms', true);
        begin
            inserted := trio_jobs.insert_new(i_id, i_type, i_payload, i_created_at, i_run_at,
                i_key, i_key_digest, '{}', i_submitted_by, i_trace, owners);
        exception when lock_not_available then
            perform set_config('lock_timeout', '1ms', true);
            inserted := trio_jobs.insert_new(i_id, i_type, i_payload, i_created_at, i_run_at,
                i_key, i_key_digest, '{}', i_submitted_by, i_trace, owners,
                array(select k.n::int from unnest(i_key) with ordinality k(key, n) where k.key is null));
            line.kind := 'b';
            for n in 1 .. cardinality(i_id) loop
                continue when i_key[n] is null;
                begin
                    inserted := inserted || trio_jobs.insert_new(i_id, i_type, i_payload,
                        i_created_at, i_run_at, i_key, i_key_digest, '{}', i_submitted_by, i_trace,
                        owners, array[n]);
                exception when lock_not_available then
                    line.id := i_id[n];
                    busy := busy || line.id;
                    lines := lines || line;
                end;
            end loop;
        end;
    end if;
    line.kind := 't';
    if cardinality(inserted) = cardinality(i_id) then
        line.fetches := 1;
        for n in 1 .. cardinality(owners) loop
            if owners[n] is not null then
                line.id := i_id[n];
                lines := lines || line;
            end if;
        end loop;
        if number_mine < cardinality(i_id) then
            select n.id into pending from unnest(i_id, i_run_at, owners) as n(id, run_at, owner)
            where n.owner is null and n.run_at is null order by n.id limit 1;
        end if;
    else
        -- Those that were in before: the answer of this round was lost. Some were fetched with it.
        for line.id, line.kind, line.fetches in
            select n.id, case when n.id = any (inserted) or j.id is not null then 't' else 'k' end,
                case when n.id <> all (inserted) then j.fetches when n.owner is not null then 1 end
            from unnest(i_id, owners) as n(id, owner) left join lateral (
                select j.id, case when j.owner = me and j.completed_at is null then j.fetches end as fetches
                from trio_jobs.jobs j where j.id = n.id limit 1
            ) j on true
            where n.id <> all (busy)
        loop
            if line.kind = 'k' or line.fetches is not null then
                lines := lines || line;
            end if;
        end loop;
        select n.id into pending from unnest(i_id, i_run_at, owners) as n(id, run_at, owner)
        where n.owner is null and n.run_at is null and n.id = any (inserted) order by n.id limit 1;
    end if;
    if pending is not null then
        perform trio_jobs.tell_pending(pending);
    end if;
    if cardinality(i_run_at) > 0 then
        perform trio_jobs.tell_time((
            select min(n.run_at) from unnest(i_id, i_run_at) as n(id, run_at)
            where n.id = any (inserted)), before);
    end if;
    return lines;
end
$$;


-- Mark a job as to be cancelled; whether it has not ended. If it waits for a time, that is now.
create function trio_jobs.request_cancel(job_id uuid) returns boolean
language plpgsql as $$
declare
    found_owner bigint;
    was_requested boolean;
begin
    -- Not by `completed_at`, for which the planner has an index that is small only at first.
    select j.owner, j.cancel_requested into found_owner, was_requested
    from trio_jobs.jobs j where j.id = job_id and j.outcome is null for update;
    if not found then
        return false;
    elsif not was_requested then
        update trio_jobs.jobs j
        set cancel_requested = true,
            run_at = case when j.run_at > clock_timestamp() then clock_timestamp() else j.run_at end
        where j.id = job_id;
        perform pg_notify(trio_jobs.channel(coalesce(found_owner, 0)),
            case when found_owner is null then job_id::text else 'c' || job_id end);
    end if;
    return true;
end
$$;

-- Let a job that waits for a time begin now; whether it waits.
create function trio_jobs.make_due(job_id uuid) returns boolean
language plpgsql as $$
begin
    update trio_jobs.jobs j set run_at = least(j.run_at, clock_timestamp())
    where j.id = job_id and j.outcome is null and j.run_at > '-infinity';
    if found then
        perform trio_jobs.tell_pending(job_id);
    end if;
    return found;
end
$$;


-- Hold the member until the commit; whether it is there. Whoever deletes it waits for this round,
-- and then sees what the round has fetched.
create function trio_jobs.enter(me bigint, my_session int) returns boolean
language plpgsql as $$
declare
    present int;
begin
    select m.session into present from trio_jobs.members m where m.id = me for key share;
    if present <> my_session then
        raise exception 'another session of member % has begun', me using errcode = 'TJ001';
    end if;
    return present is not null;
end
$$;


-- One round of one server; the Python module `round` says what it does. The arrays of one letter
-- have the same length, or are empty if all their values are null; those of what the round does not
-- do are null, as the call takes apart each array that it is given, an empty one too. Moves, begins, cancels and
-- watches are in the order of their ids: whoever locks several jobs locks them in this order, or
-- two servers could wait for each other. It can be repeated if its answer was lost; whoever begins
-- a session of the member waits for its rounds, and later ones of earlier sessions are refused.
create function trio_jobs.round(
    me bigint, my_session int,
    m_id uuid[] = null, m_owner bigint[] = null, m_fetches int[] = null, m_attempts int[] = null,
    m_snoozes int[] = null, m_run_at timestamptz[] = null, m_started_at timestamptz[] = null,
    m_completed_at timestamptz[] = null, m_duration float8[] = null, m_outcome text[] = null,
    m_error_type text[] = null, m_error_message text[] = null, m_cancel boolean[] = null,
    m_progress text[] = null, m_lines text[] = null, m_result text[] = null,
    b_id uuid[] = null, b_owner bigint[] = null, b_fetches int[] = null,
    b_started_at timestamptz[] = null, cancels uuid[] = null, watches uuid[] = null,
    low uuid = null, want int = 0, wanted text[] = null, without text[] = '{}',
    l_type text[] = null, l_left int[] = null, suspect boolean = false,
    i_id uuid[] = null, i_type text[] = null, i_payload text[] = null,
    i_created_at timestamptz[] = null, i_run_at timestamptz[] = null, i_key text[] = null,
    i_key_digest bytea[] = null, i_submitted_by text[] = null, i_trace text[] = null,
    i_fetchable boolean[] = null, count_to int = 0
) returns setof trio_jobs.answer
language plpgsql
-- A plan that was made while the tables were empty must not read all of a large one; nor may a plan
-- sort all that is pending, as the database would once it has analyzed a long queue.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set enable_sort = off set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
    line trio_jobs.answer;
    lines trio_jobs.answer[];
    locked trio_jobs.locked_jobs;
    number_fetched int := 0;
    passed_over uuid;
    an_id uuid;
    pending uuid;
begin
    if not trio_jobs.enter(me, my_session) then
        line.kind := 'l';
        return next line;
        want := 0;
    end if;
    if num_nonnulls(m_id, b_id, cancels, watches) > 1 then
        perform from unnest(array(
            select distinct u.id from unnest(m_id || b_id || cancels || watches) as u(id) order by u.id
        )) as u(id)
        cross join lateral (select from trio_jobs.jobs j where j.id = u.id limit 1 for update) locked;
    end if;

    line.kind := 'x';
    if cardinality(m_id) > 0 then
        foreach line.id in array trio_jobs.record(me, m_id, m_owner, m_fetches, m_attempts,
            m_snoozes, m_run_at, m_started_at, m_completed_at, m_duration, m_outcome, m_error_type,
            m_error_message, m_cancel, m_progress, m_lines, m_result)
        loop
            return next line;
        end loop;
    end if;
    for n in 1 .. coalesce(cardinality(b_id), 0) loop
        update trio_jobs.jobs j set started_at = b_started_at[n], progress = null, lines = null
        where j.id = b_id[n] and j.owner = b_owner[n] and j.fetches = b_fetches[n];
        if not found then
            line.id := b_id[n];
            return next line;
        end if;
    end loop;

    for n in 1 .. coalesce(cardinality(cancels), 0) loop
        perform trio_jobs.request_cancel(cancels[n]);
    end loop;

    line.kind := 'o';
    for n in 1 .. coalesce(cardinality(watches), 0) loop
        update trio_jobs.jobs j set watcher = case when coalesce(j.watcher, me) = me then me else 0 end
        where j.id = watches[n] and j.outcome is null
        returning case when j.owner is null and j.run_at is null then j.id end into an_id;
        if not found then
            line.id := watches[n];
            return next line;
        elsif pending is null then
            pending := an_id;
        end if;
    end loop;
    if pending is not null then
        -- While this round has them locked, another server that could have them does not see them.
        perform trio_jobs.tell_pending(pending);
    end if;

    while number_fetched < want loop
        locked := trio_jobs.find_jobs(
            low, want - number_fetched, wanted, without, l_type, l_left, suspect);
        exit when locked.number = 0;
        return query
            update trio_jobs.jobs j
            set owner = me, fetches = j.fetches + 1, attempts = j.attempts + 1, run_at = null
            from unnest(locked.places, locked.times) with ordinality as p(place, run_at, n)
            where j.ctid = p.place
            returning 'f'::"char", j.id, number_fetched + p.n::int, j.fetches, j.type, j.payload::text,
                trio_jobs.micros(j.created_at), j.key, j.key_digest, j.rerun_of, j.submitted_by,
                j.trace, j.attempts - 1, j.interruptions, j.snoozes, trio_jobs.micros(p.run_at),
                j.error_type, j.error_message, j.cancel_requested, j.rerun_as, j.progress::text,
                j.lines::text;
        number_fetched := number_fetched + cardinality(locked.places);
        exit when l_type is null;
        l_left := array(
            select l.remaining - (select count(*)::int from unnest(locked.types) t(type) where t.type = l.type)
            from unnest(l_type, l_left) with ordinality as l(type, remaining, n) order by l.n);
        passed_over := least(passed_over::text collate "C", locked.passed_over::text)::uuid;
        exit when cardinality(locked.places) = locked.number;
        -- Some were beyond the limits of their types: look for others.
        suspect := false;
        without := without || array(
            select l.type from unnest(l_type, l_left) as l(type, remaining) where l.remaining <= 0);
    end loop;
    if passed_over is not null then
        -- They were locked: servers that may have them have not seen them.
        perform trio_jobs.tell_pending(passed_over);
    end if;

    if cardinality(i_id) > 0 then
        lines := trio_jobs.take_in(me, want - number_fetched, l_type, l_left, i_id, i_type, i_payload,
            i_created_at, i_run_at, i_key, i_key_digest, i_submitted_by, i_trace, i_fetchable);
        if cardinality(lines) > 0 then
            return query select * from unnest(lines);
        end if;
    end if;

    if count_to > 0 then
        line.kind := 'n';
        line.id := null;
        select count(*) into line.number from (
            select from trio_jobs.jobs j where j.completed_at is null
            order by j.run_at nulls first, j.id limit count_to
        ) open;
        return next line;
    end if;
end
$$;


-- Write jobs that come in together or not at all. Rows: nothing if they are in (also if they were
-- already: the answer was lost); `k`: there is a job with one of their keys; `b`: a transaction that
-- has not ended yet has one; `r`: the job `id` can not be re-run.
create function trio_jobs.add_group(
    me bigint, my_session int, i_id uuid[], i_type text[], i_payload text[],
    i_created_at timestamptz[], i_run_at timestamptz[],
    i_key text[], i_key_digest bytea[], i_submitted_by text[], i_trace text[], i_rerun_of uuid[]
) returns setof trio_jobs.answer
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off
set enable_mergejoin = off set enable_sort = off set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
    line trio_jobs.answer;
    before timestamptz := trio_jobs.next_time();
    old_id uuid;
    new_id uuid;
begin
    perform trio_jobs.enter(me, my_session);
    perform from trio_jobs.jobs j where j.id = i_id[1];
    if found then
        return;
    end if;
    perform set_config('lock_timeout', '100ms', true);
    begin
        for old_id, new_id in
            select n.rerun_of, n.id from unnest(i_id, i_rerun_of) as n(id, rerun_of)
            where n.rerun_of is not null order by n.rerun_of
        loop
            update trio_jobs.jobs j set rerun_as = new_id
            where j.id = old_id and j.outcome <> 'succeeded' and j.rerun_as is null;
            if not found then
                line.kind := 'r';
                line.id := old_id;
                raise exception using errcode = 'TJ002';
            end if;
        end loop;
        if cardinality(trio_jobs.insert_new(i_id, i_type, i_payload, i_created_at, i_run_at, i_key,
                i_key_digest, i_rerun_of, i_submitted_by, i_trace, '{}')) < cardinality(i_id) then
            line.kind := 'k';
            raise exception using errcode = 'TJ002';
        end if;
    exception
        when sqlstate 'TJ002' then
            return next line;
            return;
        when lock_not_available then
            line.kind := 'b';
            return next line;
            return;
    end;
    perform trio_jobs.tell_pending((
        select n.id from unnest(i_id, i_run_at) as n(id, run_at) where n.run_at is null
        order by n.id limit 1));
    perform trio_jobs.tell_time((select min(n.run_at) from unnest(i_run_at) as n(run_at)), before);
end
$$;


-- A new member, with a lease of so many seconds.
create function trio_jobs.join(name text, lease float8, handlers jsonb) returns bigint
language sql as $$
    insert into trio_jobs.members (name, lease_until, lease, handlers)
    values (name, clock_timestamp() + make_interval(secs => lease), lease, handlers) returning id
$$;

-- Renew a lease. Nothing is renewed if the member is gone. `in_time`: it had not run out.
-- `members`: the names of those whose leases last. `pending`: a job may be fetched now. `next_time`: when one may be, at the earliest, that waits.
create function trio_jobs.beat(
    me bigint, lease float8, out alive boolean, out in_time boolean, out members text[],
    out pending boolean, out next_time bigint, out now bigint
)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    at timestamptz := clock_timestamp();  -- see `next_time`
begin
    select m.lease_until >= clock_timestamp() into in_time from trio_jobs.members m where m.id = me;
    update trio_jobs.members m set lease_until = clock_timestamp() + make_interval(secs => beat.lease)
    where m.id = me;
    alive := found;
    select array_agg(m.name order by m.id) into members
    from trio_jobs.members m where m.lease_until >= clock_timestamp();
    next_time := trio_jobs.micros(trio_jobs.next_time());
    pending := exists (
        select from trio_jobs.jobs j
        where j.completed_at is null and j.run_at <= at
        order by j.run_at nulls first, j.id limit 1
    ) or exists (
        select from (
            select j.owner from trio_jobs.jobs j
            where j.completed_at is null and j.run_at is null and j.owner is null
            order by j.run_at nulls first, j.id limit 1
        ) first);
    now := trio_jobs.micros(clock_timestamp());
end
$$;

-- Put back, or end, the jobs of a member that is gone.
create function trio_jobs.put_back_jobs(
    lost_member bigint, handlers jsonb, out put_back int, out ended int
)
language plpgsql as $$
declare
    each record;
    pending uuid;
    rule jsonb;
    reason text;
begin
    put_back := 0;
    ended := 0;
    for each in
        select j.id, j.type, j.started_at, j.created_at, j.interruptions, j.watcher from trio_jobs.jobs j
        where j.completed_at is null and j.run_at is null and j.owner = lost_member
        order by j.run_at nulls first, j.id for update
    loop
        rule := coalesce(handlers -> each.type, handlers -> 'default', '[true, 2147483647]');
        reason := null;
        if each.started_at is null and (each.interruptions > 0 or not (rule -> 0)::boolean) then
            -- It has not begun: of such jobs a server writes that before they do.
            update trio_jobs.jobs j set owner = null, attempts = j.attempts - 1 where j.id = each.id;
            put_back := put_back + 1;
            pending := coalesce(pending, each.id);
            continue;
        end if;
        if each.started_at is null then
            null;  -- perhaps it has not begun, and will never run if it ends here
        elsif not (rule -> 0)::boolean then
            reason := 'the server that ran the job was lost, and its handler is not repeatable';
        elsif each.interruptions + 1 >= (rule -> 1)::bigint then
            reason := 'the server that ran the job was lost ' || each.interruptions + 1 || ' times';
        end if;
        if reason is null then
            update trio_jobs.jobs j set owner = null, started_at = null, interruptions = j.interruptions + 1
            where j.id = each.id;
            put_back := put_back + 1;
            pending := coalesce(pending, each.id);
        else
            update trio_jobs.jobs j set owner = null, interruptions = j.interruptions + 1,
                completed_at = greatest(clock_timestamp(), j.started_at, j.created_at),
                outcome = 'interrupted', error_type = 'Interrupted', error_message = reason
            where j.id = each.id;
            ended := ended + 1;
            if each.watcher is not null then
                perform pg_notify(trio_jobs.channel(each.watcher), 'd' || each.id);
            end if;
        end if;
    end loop;
    perform trio_jobs.tell_pending(pending);
end
$$;

-- Delete the members whose lease is over, and put back or end their jobs. A row for each. The
-- caller's own lease is not over. It has been in contact with the database for so many seconds, in
-- which the clock was not set forward, and sweeps no member with a longer lease: after a restart of
-- the database, or such a jump, all members have the time to renew.
create function trio_jobs.sweep(me bigint, contact float8)
returns table (member bigint, name text, put_back int, ended int)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
#variable_conflict use_column
declare
    handlers jsonb;
begin
    if not exists (select from trio_jobs.members m where m.id = me and m.lease_until >= clock_timestamp()) then
        return;
    end if;
    for member in
        select m.id from trio_jobs.members m
        where m.lease_until < clock_timestamp() and m.lease <= contact and m.id <> me
        order by m.id for update skip locked
    loop
        delete from trio_jobs.members m where m.id = member returning m.name, m.handlers into name, handlers;
        select p.put_back, p.ended into put_back, ended from trio_jobs.put_back_jobs(member, handlers) p;
        return next;
    end loop;
end
$$;

-- A member goes, and has given its jobs back. What it has yet is put back as by a sweep.
create function trio_jobs.leave(me bigint, out put_back int, out ended int)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    handlers jsonb;
begin
    delete from trio_jobs.members m where m.id = me returning m.handlers into handlers;
    if found then
        select p.put_back, p.ended into put_back, ended from trio_jobs.put_back_jobs(me, handlers) p;
    end if;
end
$$;

-- Drop completed jobs that ended more than so many seconds ago, the oldest first.
create function trio_jobs.drop_old(keep_for float8, at_most int)
returns table (outcome trio_jobs.outcome, number int)
language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
#variable_conflict use_column
declare
    old timestamptz := clock_timestamp() - make_interval(secs => keep_for);
    places tid[];
begin
    select array_agg(o.place) into places from (
        select j.ctid as place from trio_jobs.jobs j where j.completed_at < old
        order by j.completed_at limit at_most for update skip locked
    ) o;
    return query
        with gone as (
            delete from trio_jobs.jobs j using unnest(places) p(place)
            where j.ctid = p.place returning j.outcome
        )
        select g.outcome, count(*)::int from gone g group by g.outcome;
end
$$;


-- For the users' own transactions: the job is there when the transaction commits.

-- Sorts behind the ids that were made before it, to a quarter of a microsecond.
create function trio_jobs.uuid7() returns uuid
language sql volatile parallel safe as $$
    select encode(
        substring(int8send(t.micros / 1000) from 3)
        || substring(int4send(28672 + (t.micros % 1000 * 4096 / 1000)::int) from 3)
        || set_byte(substring(uuid_send(gen_random_uuid()) from 9), 0, 128 + t.noise), 'hex')::uuid
    from (select trio_jobs.micros(clock_timestamp()) as micros, (random() * 63)::int as noise) t
$$;

-- Refuse what no client could submit over HTTP: Python and other languages could not read the job.
create function trio_jobs.check_submission(type text, payload text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on  -- backslashes here are what they are, whatever the caller's are
as $$
declare
    bare text;  -- without the strings
begin
    if coalesce(type, '') = '' then
        raise exception 'type must be a non-empty text' using errcode = '22023';
    end if;
    if octet_length(type) + coalesce(octet_length(payload), 0) > 50000000 then
        raise exception 'type and payload must have at most 50000000 bytes' using errcode = '22023';
    end if;
    if payload ~ '\\u[dD][89a-fA-F]' and replace(payload, '\\', '--') ~ (
        '\\u[dD][89abAB][[:xdigit:]]{2}(?!\\u[dD][c-fC-F])'
        '|(?<!\\u[dD][89abAB][[:xdigit:]]{2})\\u[dD][c-fC-F]'
    ) then
        raise exception 'payload must not have half of a surrogate pair' using errcode = '22023';
    end if;
    bare := regexp_replace(payload, '"[^"\\]*(?:\\.[^"\\]*)*"', '', 'g');
    if bare ~ '[eE]|[0-9]{200}' then  -- also of `false`
        -- This raises "... is out of range ...".
        perform number[1]::float8 from regexp_matches(
            bare, '[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]+|[0-9]{200,}\.[0-9]+(?![0-9eE])', 'g') number;
        perform from regexp_matches(bare, '-?[0-9]{200,}(?![0-9.eE])', 'g') number
        where octet_length(number[1]) > 4300;
        if found then
            raise exception 'payload must not have an integer of more than 4300 characters'
                using errcode = '22023';
        end if;
    end if;
    if octet_length(bare) > 128 then
        bare := translate(regexp_replace(bare, '[^][{}]', '', 'g'), '{}', '[]');
        for level in 1 .. 64 loop  -- each takes the innermost brackets away
            exit when bare = '';
            bare := replace(bare, '[]', '');
        end loop;
        if bare <> '' then
            raise exception 'payload must be nested at most 64 levels deep' using errcode = '22023';
        end if;
    end if;
end
$$;

-- Submit a job; returns its id, or that of the job that has the key.
create function trio_jobs.submit(type text, payload json default null, key text default null)
returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    new_id uuid := trio_jobs.uuid7();
    old_id uuid;
begin
    perform trio_jobs.check_submission(submit.type, submit.payload::text);
    if coalesce(submit.key, 'k') !~ '^[!-~]{1,255}$' then
        raise exception 'key must be 1 to 255 visible ASCII characters' using errcode = '22023';
    end if;
    loop
        insert into trio_jobs.jobs (id, type, payload, key)
        values (new_id, submit.type, submit.payload, submit.key)
        on conflict (key) where key is not null do nothing;
        exit when found;
        select j.id into old_id from trio_jobs.jobs j where j.key = submit.key;
        if found then
            return old_id;
        end if;
    end loop;  -- the job with the key was deleted between the two
    if coalesce(current_setting('trio_jobs.told', true), '') = '' then
        perform set_config('trio_jobs.told', 'one', true);
        perform pg_notify('trio_jobs', 'n' || new_id);
    elsif current_setting('trio_jobs.told') = 'one' then
        -- Once for all further submissions of this transaction: this id is the smallest.
        perform set_config('trio_jobs.told', 'all', true);
        perform pg_notify('trio_jobs', new_id::text);
    end if;
    return new_id;
end
$$;

revoke all on all functions in schema trio_jobs from public;

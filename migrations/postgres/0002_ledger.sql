-- The books of a limit that several replicas keep together. The protocol is told in docs/protocol.md.

-- Which history of the database this is: it begins anew with each promotion of a copy, which may have lost commits. What a
-- copy says of before then is void, and so are the units that replicas have on lease from there.
--
-- VOLATILE, as what it calls, so that it is a part of the statements that call it: a call would take ten times as long.
CREATE FUNCTION "_tower_quota_epoch"() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
  -- The timeline. Not from the control file, which knows of a promotion only after the next checkpoint.
  SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
$$;

-- A running process. It shows that it is alive by counting its beats; the others watch the count by their own clocks.
CREATE TABLE "_tower_quota_replica" (
  "id"    uuid PRIMARY KEY,
  "beats" bigint NOT NULL DEFAULT 0,
  "live"  boolean NOT NULL DEFAULT true,
  "epoch" bigint NOT NULL DEFAULT "_tower_quota_epoch"()
);

-- A resource type of a workspace, or, where a control character stands before its id, of the workspace and all below it
-- together. The rows that may exist at most are "counted" + "posted" + "carried" + "leased".
CREATE TABLE "_tower_quota_key" (
  "workspace"  text NOT NULL,
  "resource"   text NOT NULL,
  "counted"    bigint,
  "posted"     bigint NOT NULL DEFAULT 0,
  "carried"    bigint NOT NULL DEFAULT 0,
  "leased"     bigint NOT NULL DEFAULT 0,
  "posts"      bigint NOT NULL DEFAULT 0,
  "edits"      bigint NOT NULL DEFAULT 0,
  "editsEnded" bigint NOT NULL DEFAULT 0,
  -- The lease for which all others wait.
  "claim"      uuid,
  -- When it was counted.
  "epoch"      bigint NOT NULL DEFAULT "_tower_quota_epoch"(),
  PRIMARY KEY ("workspace", "resource")
) WITH (fillfactor = 50);

-- Units that one replica may hand out. What it says is in totals that only grow, so that to hear it twice, or in another
-- order, changes nothing.
CREATE TABLE "_tower_quota_lease" (
  "id"         uuid PRIMARY KEY,
  "replica"    uuid NOT NULL,
  "workspace"  text NOT NULL,
  "resource"   text NOT NULL,
  "live"       boolean NOT NULL DEFAULT true,
  "granted"    bigint NOT NULL DEFAULT 0,
  "posted"     bigint NOT NULL DEFAULT 0,
  "returned"   bigint NOT NULL DEFAULT 0,
  "edits"      bigint NOT NULL DEFAULT 0,
  "editsEnded" bigint NOT NULL DEFAULT 0,
  -- The last request for units that was answered, and how many were granted.
  "asked"      bigint NOT NULL DEFAULT 0,
  "answer"     bigint NOT NULL DEFAULT 0,
  -- The keys of workspaces with all below them that its units were charged to as well, in leases of their own.
  "charges"    text[] NOT NULL DEFAULT '{}',
  "epoch"      bigint NOT NULL DEFAULT "_tower_quota_epoch"()
) WITH (fillfactor = 50);
CREATE INDEX "_tower_quota_lease_key" ON "_tower_quota_lease" ("workspace", "resource");
CREATE INDEX "_tower_quota_lease_replica" ON "_tower_quota_lease" ("replica");

-- Leases that have ended, for as long as a request from before may still be under way: it would begin them anew, and what it
-- was granted would be nobody's.
CREATE TABLE "_tower_quota_ended" (
  "lease"   uuid PRIMARY KEY,
  "replica" uuid NOT NULL REFERENCES "_tower_quota_replica" ON DELETE CASCADE,
  -- How often the replica had beaten then.
  "beats"   bigint NOT NULL
);
CREATE INDEX "_tower_quota_ended_replica" ON "_tower_quota_ended" ("replica", "beats");

-- For how many beats of its replica a request may be under way and still begin a lease.
CREATE FUNCTION "_tower_quota_patience"() RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
  SELECT 64::bigint
$$;

-- The books of a key, locked until the end of the transaction. They are always locked before a lease is changed. What
-- was counted in an earlier epoch is forgotten.
CREATE FUNCTION "_tower_quota_open"(p_workspace text, p_resource text) RETURNS "_tower_quota_key"
LANGUAGE plpgsql AS $$
DECLARE
  k "_tower_quota_key";
BEGIN
  LOOP
    SELECT * INTO k FROM "_tower_quota_key" WHERE "workspace" = p_workspace AND "resource" = p_resource FOR UPDATE;
    IF FOUND THEN
      IF k."epoch" <> "_tower_quota_epoch"() THEN
        k."epoch" := "_tower_quota_epoch"();
        k."counted" := NULL;
      END IF;
      RETURN k;
    END IF;
    -- A change of parents and caps waits for keys that are there. Before there is one, it is waited for here, or waits.
    PERFORM pg_advisory_xact_lock_shared(128060827788645);
    INSERT INTO "_tower_quota_key" ("workspace", "resource") VALUES (p_workspace, p_resource) ON CONFLICT DO NOTHING;
  END LOOP;
END $$;

-- What a lease may still turn into rows. Units that were handed out past what was granted are paid back by later grants.
CREATE FUNCTION "_tower_quota_rest"(l "_tower_quota_lease") RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
  SELECT greatest(l."granted" - l."posted" - l."returned", 0)
$$;

-- Brings a replica's word about its lease into the books. "before" is what the lease said until now.
CREATE FUNCTION "_tower_quota_merge"(k "_tower_quota_key", before "_tower_quota_lease", l "_tower_quota_lease")
RETURNS "_tower_quota_key"
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  k."leased" := k."leased" - "_tower_quota_rest"(before) + "_tower_quota_rest"(l);
  k."posted" := k."posted" + l."posted" - before."posted";
  k."posts" := k."posts" + l."posted" - before."posted";
  k."edits" := k."edits" + (l."edits" - l."editsEnded") - (before."edits" - before."editsEnded");
  k."editsEnded" := k."editsEnded" + l."editsEnded" - before."editsEnded";
  RETURN k;
END $$;

-- Writes nothing where nothing has changed.
CREATE FUNCTION "_tower_quota_close"(k "_tower_quota_key") RETURNS void
LANGUAGE sql AS $$
  UPDATE "_tower_quota_key" AS o SET
    "counted" = k."counted", "posted" = k."posted", "carried" = k."carried", "leased" = k."leased",
    "posts" = k."posts", "edits" = k."edits", "editsEnded" = k."editsEnded", "claim" = k."claim", "epoch" = k."epoch"
  WHERE "workspace" = k."workspace" AND "resource" = k."resource" AND o IS DISTINCT FROM k
$$;

-- Whether all others have to wait for a lease. A claim ends with its lease, however that ended.
CREATE FUNCTION "_tower_quota_waits"(k "_tower_quota_key") RETURNS boolean
LANGUAGE sql AS $$
  SELECT k."claim" IS NOT NULL AND EXISTS (SELECT FROM "_tower_quota_lease" WHERE "id" = k."claim" AND "live" AND "epoch" = "_tower_quota_epoch"())
$$;

-- Sees to it that a lease doesn't begin anew. One of a replica that has ended can't.
CREATE FUNCTION "_tower_quota_bar"(l "_tower_quota_lease") RETURNS void
LANGUAGE sql AS $$
  INSERT INTO "_tower_quota_ended" ("lease", "replica", "beats")
  SELECT l."id", "id", "beats" FROM "_tower_quota_replica"
  WHERE "id" = l."replica" AND "live" AND "epoch" = "_tower_quota_epoch"()
  ON CONFLICT DO NOTHING
$$;

-- Tells whoever waits for a key that something was given back.
CREATE FUNCTION "_tower_quota_free"(k "_tower_quota_key") RETURNS void
LANGUAGE sql AS $$
  SELECT pg_notify('_tower_quota', 'free ' || k."resource" || ' ' || k."workspace")
$$;

-- One request of a replica: what became of the units it has, and how many more it needs. All of it, or nothing.
--
-- Answers `granted`, `over` (the rows and the need are over the limit, by a count that this request made), `blocked`
-- (only what is in flight is in the way), `count` (the rows must be counted, which this function can't do), `none`
-- (nothing was needed, or the request was heard before and got nothing: it has to be made anew), `moved` (the workspace
-- counts in other subtrees than those that the units are charged to, and nothing was changed) or `dead` (the lease has
-- ended, and nothing was changed).
CREATE FUNCTION "_tower_quota_ask"(
  p_lease uuid,
  -- Whose it is, and how often that had beaten when it asked.
  p_replica uuid, p_beats bigint,
  p_workspace text, p_resource text,
  p_posted bigint, p_returned bigint, p_edits bigint, p_edits_ended bigint,
  -- The number of a request for units: one that was heard before is answered as before.
  p_seq bigint,
  -- The least that is of use; what the waiting requests need; what would be good to have in store.
  p_need bigint, p_queued bigint, p_spare bigint,
  -- How many replicas share what is left.
  p_replicas bigint,
  p_recount boolean,
  -- The limit: a column of "WorkspaceQuota", and what is in force where nothing says otherwise. -1 is unlimited.
  p_field text, p_default bigint,
  -- The statement that counts no more than a number of rows, and the one that counts all; NULL where the rows are elsewhere.
  p_bounded text, p_all text,
  -- What was counted elsewhere, since the books said this.
  p_rows bigint, p_mark_posts bigint, p_mark_edits_ended bigint,
  -- The keys that the units are charged to as well, and whether grace counts.
  p_charges text[], p_grace boolean,
  OUT verdict text, OUT granted bigint, OUT "limit" bigint, OUT "rows" bigint, OUT posted bigint, OUT reserved bigint,
  OUT believed bigint, OUT posts bigint, OUT edits_ended bigint, OUT counted boolean, OUT breach bigint
)
LANGUAGE plpgsql SET lock_timeout = '4s' AS $$
DECLARE
  k "_tower_quota_key" := "_tower_quota_open"(p_workspace, p_resource);
  before "_tower_quota_lease";
  l "_tower_quota_lease";
  found_rows bigint;
  carried_before bigint;
  bound bigint;
  room bigint;
  waits boolean;
  spare bigint;
  claimed boolean;
  -- The workspace with all below it that this is about, if it is.
  top text := CASE WHEN left(p_workspace, 1) = chr(31) THEN substr(p_workspace, 2) END;
  -- What leases of those below may still turn into rows that aren't charged here: they are of before the workspace came here.
  uncharged bigint := 0;
BEGIN
  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    -- It would go by rows and limits of before.
    RAISE EXCEPTION 'the ledger works at READ COMMITTED: have default_transaction_isolation say so for its role';
  END IF;
  granted := 0;
  counted := false;
  breach := 0;
  IF top IS NULL AND "_tower_quota_caps"(p_workspace, p_resource) <> p_charges THEN
    verdict := 'moved';
    RETURN;
  END IF;
  SELECT * INTO before FROM "_tower_quota_lease" WHERE "id" = p_lease;
  IF NOT FOUND THEN
    IF p_seq > 1 OR EXISTS (SELECT FROM "_tower_quota_ended" WHERE "lease" = p_lease) OR NOT EXISTS (
      SELECT FROM "_tower_quota_replica"
      WHERE "id" = p_replica AND "live" AND "epoch" = "_tower_quota_epoch"()
        AND "beats" <= p_beats + "_tower_quota_patience"()
    ) THEN
      verdict := 'dead';
      RETURN;
    END IF;
    INSERT INTO "_tower_quota_lease" ("id", "replica", "workspace", "resource", "charges")
    VALUES (p_lease, p_replica, p_workspace, p_resource, p_charges) RETURNING * INTO before;
  END IF;
  IF NOT before."live" OR before."epoch" <> "_tower_quota_epoch"() THEN
    verdict := 'dead';
    RETURN;
  END IF;
  IF before."charges" <> p_charges THEN
    verdict := 'moved';
    RETURN;
  END IF;

  l := before;
  l."posted" := greatest(l."posted", p_posted);
  l."returned" := greatest(l."returned", p_returned);
  l."edits" := greatest(l."edits", p_edits);
  l."editsEnded" := greatest(l."editsEnded", p_edits_ended);
  k := "_tower_quota_merge"(k, before, l);
  believed := k."counted" + k."posted";
  carried_before := k."carried";
  bound := believed + k."carried" + k."leased";
  claimed := k."claim" = p_lease;
  IF claimed THEN
    k."claim" := NULL;
  END IF;
  waits := "_tower_quota_waits"(k);

  "limit" := "_tower_quota_limit"(p_workspace, p_resource, p_field, p_default, p_grace);
  IF top IS NOT NULL THEN
    -- Before rows are counted: what becomes a row in between counts twice.
    SELECT coalesce(sum("_tower_quota_rest"(o) + o."edits" - o."editsEnded"), 0) INTO uncharged FROM "_tower_quota_lease" o
    WHERE o."workspace" IN (SELECT "_tower_quota_members"(top)) AND o."resource" = p_resource
      AND p_workspace <> ALL(o."charges");
  END IF;

  IF p_need > 0 AND p_seq <= before."asked" THEN
    -- Heard before, though the answer was lost. What it granted is in the lease. Where that is nothing, it doesn't get
    -- anything now either: whoever asked may have gone on, and would never know.
    granted := CASE WHEN p_seq = before."asked" THEN before."answer" ELSE 0 END;
    verdict := CASE WHEN granted > 0 THEN 'granted' ELSE 'none' END;
  ELSE
    verdict := CASE WHEN p_need > 0 THEN 'blocked' ELSE 'none' END;
    FOR attempt IN 1..2 LOOP
      IF attempt = 2 OR p_recount OR p_rows IS NOT NULL OR k."counted" IS NULL AND p_need > 0 THEN
        -- The count. Each statement of this function sees what was committed before the statement began, and posts that
        -- are not in the books yet are still leased.
        IF p_rows IS NOT NULL THEN
          found_rows := p_rows;
          k."posted" := k."posts" - p_mark_posts;
          k."carried" := k."edits" + k."editsEnded" - p_mark_edits_ended;
        ELSIF p_bounded IS NULL THEN
          verdict := 'count';
          EXIT;
        ELSE
          IF "limit" >= 0 THEN
            EXECUTE p_bounded INTO found_rows USING coalesce(top, p_workspace), least("limit", 9223372036854775806) + 1;
          END IF;
          IF "limit" < 0 OR found_rows > "limit" THEN
            EXECUTE p_all INTO found_rows USING coalesce(top, p_workspace);
          END IF;
          k."posted" := 0;
          k."carried" := k."edits";
        END IF;
        -- Of the rows whose edit a count may have missed, no more are carried than are missing.
        IF k."counted" IS NOT NULL THEN
          k."carried" := least(k."carried", greatest(believed + carried_before - found_rows - k."posted", 0));
        END IF;
        -- More than there can be: rows came to exist around the books.
        breach := greatest(found_rows - bound, 0);
        k."counted" := found_rows;
        counted := true;
      END IF;
      EXIT WHEN p_need <= 0;
      room := CASE WHEN "limit" < 0 THEN 9000000000000000000 - k."leased"
                   ELSE "limit" - k."counted" - k."posted" - k."carried" - k."leased" - uncharged END;
      IF p_need <= room AND NOT waits THEN
        granted := least(p_queued, room);
        spare := (room - granted) / (2 * greatest(p_replicas, 1));
        granted := granted + least(p_spare, spare);
        l."granted" := l."granted" + granted;
        k."leased" := k."leased" + granted;
        verdict := 'granted';
        EXIT;
      END IF;
      IF counted THEN
        IF "limit" >= 0 AND k."counted" + p_need > "limit" THEN
          verdict := 'over';
        ELSIF NOT waits THEN
          k."claim" := p_lease;
        END IF;
        EXIT;
      END IF;
    END LOOP;
    IF p_need > 0 AND verdict <> 'count' THEN
      l."asked" := p_seq;
      l."answer" := granted;
    END IF;
  END IF;

  IF verdict = 'over' AND claimed IS NOT TRUE AND before."asked" > 0
    AND (l."posted", l."returned", l."edits", l."editsEnded")
      = (before."posted", before."returned", before."edits", before."editsEnded") THEN
    -- A refusal need not wait for the disk. A crash that loses it takes the books back to where they were before a count,
    -- and forgets the number of a request that has died with its session.
    PERFORM set_config('synchronous_commit', 'off', true);
  ELSIF current_setting('synchronous_commit') = 'off' THEN
    -- Whatever the default is: a grant that a crash loses would be given twice.
    PERFORM set_config('synchronous_commit', 'local', true);
  END IF;
  UPDATE "_tower_quota_lease" AS o SET
    "posted" = l."posted", "returned" = l."returned", "edits" = l."edits", "editsEnded" = l."editsEnded",
    "granted" = l."granted", "asked" = l."asked", "answer" = l."answer"
  WHERE "id" = p_lease AND o IS DISTINCT FROM l;
  "rows" := k."counted";
  posted := k."posted";
  reserved := k."leased" + k."carried" + uncharged;
  IF uncharged > 0 THEN
    -- What they make is told to nobody here: until they have ended, rows are counted anew each time.
    k."counted" := NULL;
  END IF;
  PERFORM "_tower_quota_close"(k);
  IF verdict = 'blocked' THEN
    PERFORM pg_notify('_tower_quota', 'recall ' || p_resource || ' ' || p_workspace);
  ELSIF claimed OR waits THEN
    PERFORM "_tower_quota_free"(k);
  END IF;
  posts := k."posts";
  edits_ended := k."editsEnded";
END $$;

-- What became of the units of many leases of a replica. Those that end are gone when nothing of them is left. Answers
-- those that are live.
CREATE FUNCTION "_tower_quota_flush"(
  p_leases uuid[], p_posted bigint[], p_returned bigint[], p_edits bigint[], p_edits_ended bigint[],
  -- Whether somebody waits for the lease; whether it is of no more use.
  p_waiting boolean[], p_ends boolean[]
) RETURNS TABLE (lease uuid, asked bigint, answer bigint, wanted boolean)
LANGUAGE plpgsql SET lock_timeout = '4s' AS $$
DECLARE
  said record;
  k "_tower_quota_key";
  before "_tower_quota_lease";
  l "_tower_quota_lease";
BEGIN
  FOR said IN
    SELECT s.*, o."workspace", o."resource"
    FROM unnest(p_leases, p_posted, p_returned, p_edits, p_edits_ended, p_waiting, p_ends)
      AS s(id, posted, returned, edits, edits_ended, waiting, ends)
    JOIN "_tower_quota_lease" o ON o."id" = s.id
    -- One order for all, so that no two wait for each other.
    ORDER BY o."workspace", o."resource", s.id
  LOOP
    k := "_tower_quota_open"(said.workspace, said.resource);
    SELECT * INTO before FROM "_tower_quota_lease"
    WHERE "id" = said.id AND "live" AND "epoch" = "_tower_quota_epoch"();
    CONTINUE WHEN NOT FOUND;
    l := before;
    l."posted" := greatest(l."posted", said.posted);
    l."returned" := greatest(l."returned", said.returned);
    l."edits" := greatest(l."edits", said.edits);
    l."editsEnded" := greatest(l."editsEnded", said.edits_ended);
    k := "_tower_quota_merge"(k, before, l);
    IF k."claim" = said.id AND NOT said.waiting THEN
      k."claim" := NULL;
      PERFORM "_tower_quota_free"(k);
    END IF;
    wanted := "_tower_quota_waits"(k) AND k."claim" <> said.id;
    IF wanted AND l <> before THEN
      PERFORM "_tower_quota_free"(k);
    END IF;
    UPDATE "_tower_quota_lease" AS o SET
      "posted" = l."posted", "returned" = l."returned", "edits" = l."edits", "editsEnded" = l."editsEnded"
    WHERE "id" = said.id AND o IS DISTINCT FROM l;
    IF said.ends AND "_tower_quota_rest"(l) = 0 AND l."edits" = l."editsEnded" THEN
      -- Not while a transaction still holds on to it: it is left to those who end leases.
      DELETE FROM "_tower_quota_lease"
      WHERE "id" = (SELECT "id" FROM "_tower_quota_lease" WHERE "id" = said.id FOR UPDATE SKIP LOCKED);
      IF FOUND THEN
        PERFORM "_tower_quota_bar"(l);
      ELSE
        UPDATE "_tower_quota_lease" SET "live" = false WHERE "id" = said.id;
      END IF;
    END IF;
    PERFORM "_tower_quota_close"(k);
    lease := said.id;
    asked := l."asked";
    answer := l."answer";
    RETURN NEXT;
  END LOOP;
END $$;

-- Marks leases: from now on no transaction can take hold of them. What they have left is put down by `settle`, in a
-- transaction of its own: by then, whoever took hold of one before can be waited for.
CREATE FUNCTION "_tower_quota_kill"(p_leases uuid[]) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '4s' AS $$
DECLARE
  l "_tower_quota_lease";
BEGIN
  FOR l IN
    SELECT * FROM "_tower_quota_lease" WHERE "id" = ANY(p_leases) AND "live" ORDER BY "workspace", "resource", "id"
  LOOP
    PERFORM "_tower_quota_open"(l."workspace", l."resource");
    UPDATE "_tower_quota_lease" SET "live" = false WHERE "id" = l."id";
  END LOOP;
END $$;

-- Units of leases that were killed count as rows, until a count tells. Those that a transaction still holds on to are left
-- for another time. Answers how many units they were.
CREATE FUNCTION "_tower_quota_settle"(p_leases uuid[]) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '4s' AS $$
DECLARE
  k "_tower_quota_key";
  before "_tower_quota_lease";
  l "_tower_quota_lease";
  settled bigint := 0;
BEGIN
  FOR before IN SELECT * FROM "_tower_quota_lease" WHERE "id" = ANY(p_leases) ORDER BY "workspace", "resource", "id" LOOP
    k := "_tower_quota_open"(before."workspace", before."resource");
    SELECT * INTO before FROM "_tower_quota_lease"
    WHERE "id" = before."id" AND NOT ("live" AND "epoch" = "_tower_quota_epoch"()) FOR UPDATE SKIP LOCKED;
    CONTINUE WHEN NOT FOUND;
    DELETE FROM "_tower_quota_lease" WHERE "id" = before."id";
    PERFORM "_tower_quota_bar"(before);
    l := before;
    l."posted" := l."posted" + "_tower_quota_rest"(before);
    l."editsEnded" := l."edits";
    k := "_tower_quota_merge"(k, before, l);
    PERFORM "_tower_quota_close"(k);
    PERFORM "_tower_quota_free"(k);
    settled := settled + l."posted" - before."posted";
  END LOOP;
  RETURN settled;
END $$;

-- A sign of life; answers all replicas. Those of an earlier epoch are not live.
CREATE FUNCTION "_tower_quota_beat"(p_replica uuid) RETURNS TABLE ("id" uuid, "beats" bigint, "live" boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  this_epoch bigint := "_tower_quota_epoch"();
  now bigint;
BEGIN
  UPDATE "_tower_quota_replica" SET "beats" = "beats" + 1
  WHERE "id" = p_replica AND "live" AND "epoch" = this_epoch RETURNING "beats" INTO now;
  DELETE FROM "_tower_quota_ended" WHERE "replica" = p_replica AND "beats" < now - "_tower_quota_patience"();
  RETURN QUERY SELECT "id", "beats", "live" AND "epoch" = this_epoch FROM "_tower_quota_replica";
END $$;

-- Whoever changes limits waits until no grant is under way, so that none that comes after goes by the old ones. And tells
-- the replicas.
-- With its owner's rights: whoever may change limits need not have any on the books.
CREATE FUNCTION "_tower_quota_limits"() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  changed text := CASE WHEN TG_OP = 'DELETE' THEN OLD."workspaceId" ELSE NEW."workspaceId" END;
BEGIN
  PERFORM FROM "_tower_quota_key" WHERE "workspace" = changed ORDER BY "resource" FOR UPDATE;
  PERFORM pg_notify('_tower_quota', 'limits ' || changed);
  RETURN NULL;
END $$;
CREATE TRIGGER "_tower_quota_limits" AFTER INSERT OR UPDATE OR DELETE ON "WorkspaceQuota"
FOR EACH ROW EXECUTE FUNCTION "_tower_quota_limits"();

-- What a limit depends on beside what was set: see src/policy.
ALTER TABLE "WorkspaceQuota"
  ADD COLUMN "plan" TEXT,
  ADD COLUMN "parent" TEXT,
  -- In the form of `Settings`.
  ADD COLUMN "settings" JSONB NOT NULL DEFAULT '{}';
CREATE INDEX "_tower_quota_plan" ON "WorkspaceQuota" ("plan");
CREATE INDEX "_tower_quota_parent" ON "WorkspaceQuota" ("parent");

CREATE TABLE "QuotaPlan" (
  "name" TEXT NOT NULL PRIMARY KEY,
  -- Its version, its limits by their fields, and its times.
  "document" JSONB NOT NULL
);

CREATE TABLE "QuotaRequest" (
  "id" UUID NOT NULL PRIMARY KEY,
  "workspaceId" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  -- In the form of `IncreaseRequest`.
  "document" JSONB NOT NULL
);
CREATE INDEX "_tower_quota_request" ON "QuotaRequest" ("workspaceId", "id");
CREATE INDEX "_tower_quota_request_status" ON "QuotaRequest" ("status", "id");

-- Who changed what.
CREATE TABLE "QuotaAudit" (
  "seq" BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "at" TIMESTAMPTZ NOT NULL,
  "actor" TEXT NOT NULL,
  "origin" TEXT NOT NULL,
  "action" TEXT NOT NULL,
  "workspaceId" TEXT,
  "resourceType" TEXT,
  "old" JSONB NOT NULL,
  "new" JSONB NOT NULL,
  "reason" TEXT
);
CREATE INDEX "_tower_quota_audit_workspace" ON "QuotaAudit" ("workspaceId", "seq");
CREATE INDEX "_tower_quota_audit_resource" ON "QuotaAudit" ("resourceType", "seq");
CREATE FUNCTION "_tower_quota_append_only"() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is only added to';
END $$;
CREATE TRIGGER "_tower_quota_append_only" BEFORE UPDATE OR DELETE OR TRUNCATE ON "QuotaAudit"
FOR EACH STATEMENT EXECUTE FUNCTION "_tower_quota_append_only"();

-- How far works of many steps have come.
CREATE TABLE "QuotaProgress" (
  "work" TEXT NOT NULL PRIMARY KEY,
  "progress" TEXT NOT NULL
);

-- A workspace and all below it.
CREATE FUNCTION "_tower_quota_members"(p_top text) RETURNS SETOF text
LANGUAGE sql STABLE AS $$
  WITH RECURSIVE below("id", "depth") AS (
    SELECT p_top, 0
    UNION ALL
    SELECT q."workspaceId", b."depth" + 1 FROM below b JOIN "WorkspaceQuota" q ON q."parent" = b."id" WHERE b."depth" < 8
  )
  SELECT "id" FROM below
$$;

-- A workspace and all above it.
CREATE FUNCTION "_tower_quota_ancestors"(p_workspace text) RETURNS SETOF text
LANGUAGE sql STABLE AS $$
  WITH RECURSIVE above("id", "depth") AS (
    SELECT p_workspace, 0
    UNION ALL
    SELECT q."parent", a."depth" + 1 FROM above a JOIN "WorkspaceQuota" q ON q."workspaceId" = a."id"
    WHERE a."depth" < 8 AND q."parent" IS NOT NULL
  )
  SELECT "id" FROM above
$$;

-- The books of workspaces with all below them that a row of this one counts in: by the caps on this resource type of the
-- workspace itself and of those above it, the nearest first.
--
-- Not in SQL, and nothing is run that is put together, here and below: each call would plan it anew.
CREATE FUNCTION "_tower_quota_caps"(p_workspace text, p_resource text) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
  node text := p_workspace;
  parent text;
  cap jsonb;
  caps text[] := '{}';
BEGIN
  FOR depth IN 0..8 LOOP
    SELECT q."parent", q."settings" -> 'caps' -> p_resource INTO parent, cap FROM "WorkspaceQuota" q
    WHERE q."workspaceId" = node;
    EXIT WHEN NOT FOUND;
    IF jsonb_typeof(cap) = 'number' THEN
      caps := caps || (chr(31) || node);
    END IF;
    EXIT WHEN parent IS NULL;
    node := parent;
  END LOOP;
  RETURN caps;
END $$;

-- The limit in force, -1 for none: a temporary override, else what was set, else the plan's, else a share of the parent's,
-- else the default; and with grace on top of it where that counts. Of a workspace with all below it: the cap on them.
--
-- The same is in src/policy/lineage.rs: tests/store/limits.rs holds one against the other.
CREATE FUNCTION "_tower_quota_limit"(p_workspace text, p_resource text, p_field text, p_default bigint, p_grace boolean)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  this_moment timestamptz := clock_timestamp();
  node text := p_workspace;
  quota jsonb;
  plan text;
  parent text;
  settings jsonb;
  grace jsonb;
  said jsonb;
  share int;
  shares int[] := '{}';
  found_limit bigint;
BEGIN
  IF left(p_workspace, 1) = chr(31) THEN
    SELECT q."settings" -> 'caps' -> p_resource INTO said FROM "WorkspaceQuota" q
    WHERE q."workspaceId" = substr(p_workspace, 2);
    RETURN coalesce((said #>> '{}')::bigint, -1);
  END IF;
  FOR depth IN 0..8 LOOP
    SELECT to_jsonb(q) INTO quota FROM "WorkspaceQuota" q WHERE q."workspaceId" = node;
    IF NOT FOUND THEN
      -- Somebody has deleted it by hand.
      shares := shares[:depth - 1];
      EXIT;
    END IF;
    IF NOT quota ? p_field THEN
      RAISE EXCEPTION USING ERRCODE = 'undefined_column', MESSAGE = format('"WorkspaceQuota" has no column "%s"', p_field);
    END IF;
    -- A column without a limit is a JSON null, and a limit of none is -1 there.
    said := nullif(quota -> p_field, 'null');
    plan := quota ->> 'plan';
    parent := quota ->> 'parent';
    settings := quota -> 'settings';
    IF depth = 0 THEN
      grace := settings -> 'graceUses' -> p_resource;
    END IF;
    IF settings ? 'overrides' THEN
      SELECT coalesce(
        (SELECT o -> 'limit' FROM jsonb_array_elements(settings -> 'overrides') AS o
         WHERE o ->> 'resourceType' = p_resource AND (o ->> 'startsAt')::timestamptz <= this_moment
           AND this_moment < (o ->> 'expiresAt')::timestamptz LIMIT 1),
        said) INTO said;
    END IF;
    IF said IS NULL AND plan IS NOT NULL THEN
      SELECT p."document" -> 'limits' -> p_field INTO said FROM "QuotaPlan" p WHERE p."name" = plan;
    END IF;
    IF said IS NOT NULL THEN
      found_limit := coalesce((said #>> '{}')::bigint, -1);
      EXIT;
    END IF;
    share := settings -> 'shares' ->> p_resource;
    EXIT WHEN share IS NULL OR parent IS NULL OR depth = 8;
    shares := shares || share;
    node := parent;
  END LOOP;
  found_limit := coalesce(found_limit, p_default);
  -- Rounded down by `div`: a quotient of large numbers has no digits behind the point.
  FOR at IN REVERSE cardinality(shares)..1 LOOP
    found_limit := CASE WHEN shares[at] = 0 THEN 0 WHEN found_limit < 0 THEN -1
                        ELSE div(found_limit::numeric * shares[at], 100) END;
  END LOOP;
  IF p_grace AND found_limit >= 0 AND this_moment < (grace ->> 'endsAt')::timestamptz THEN
    found_limit := least(div(found_limit::numeric * (100 + (grace ->> 'percentage')::int), 100), 9223372036854775807);
  END IF;
  RETURN found_limit;
END $$;

-- What the limits of a workspace come from, in the words of "_tower_quota_change".
CREATE FUNCTION "_tower_quota_origins"(p_workspace text) RETURNS SETOF text
LANGUAGE sql STABLE AS $$
  SELECT "id" FROM "_tower_quota_ancestors"(p_workspace) AS "id"
  UNION ALL
  SELECT chr(30) || q."plan" FROM "WorkspaceQuota" q
  WHERE q."workspaceId" IN (SELECT "_tower_quota_ancestors"(p_workspace)) AND q."plan" IS NOT NULL
$$;

-- Tells the replicas that a plan has changed. Grants under way are of before.
CREATE FUNCTION "_tower_quota_plan_changed"() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO "_tower_quota_change" AS c VALUES (chr(30) || CASE WHEN TG_OP = 'DELETE' THEN OLD."name" ELSE NEW."name" END, 1)
  ON CONFLICT ("workspace") DO UPDATE SET "changes" = c."changes" + 1;
  PERFORM pg_notify('_tower_quota', 'plan ' || CASE WHEN TG_OP = 'DELETE' THEN OLD."name" ELSE NEW."name" END);
  RETURN NULL;
END $$;
CREATE TRIGGER "_tower_quota_plan_changed" AFTER INSERT OR UPDATE OR DELETE ON "QuotaPlan"
FOR EACH ROW EXECUTE FUNCTION "_tower_quota_plan_changed"();

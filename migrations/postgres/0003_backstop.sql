-- The backstop: a trigger of the host's tables, which lets no row in above the limit, whoever writes it. What it promises, and
-- why it can't be in the way of a request that was admitted, is told in docs/protocol.md.

-- How often limits of a workspace were changed, or those of a plan, where another control character stands before its name. A transaction that sees the database as it was fails on it where it would go
-- by limits of before.
CREATE TABLE "_tower_quota_change" (
  "workspace" text PRIMARY KEY,
  "changes"   bigint NOT NULL
);

CREATE OR REPLACE FUNCTION "_tower_quota_limits"() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  changed text := CASE WHEN TG_OP = 'DELETE' THEN OLD."workspaceId" ELSE NEW."workspaceId" END;
  touched text[] := ARRAY[changed];
  caps text[];
BEGIN
  INSERT INTO "_tower_quota_change" AS c VALUES (changed, 1)
  ON CONFLICT ("workspace") DO UPDATE SET "changes" = c."changes" + 1;
  IF TG_OP = 'INSERT' AND (NEW."parent" IS NOT NULL OR NEW."settings" ? 'caps') OR TG_OP = 'UPDATE'
    AND (OLD."parent", OLD."settings" -> 'caps') IS DISTINCT FROM (NEW."parent", NEW."settings" -> 'caps') THEN
    -- Rows of this workspace and all below it count in other subtrees now. Leases of before know nothing of that: none is
    -- being granted from here on, and see `_tower_quota_ask` for those that there are.
    PERFORM pg_advisory_xact_lock(128060827788645);
    SELECT array_agg(chr(31) || "id") INTO caps FROM "_tower_quota_ancestors"(changed) AS "id";
    touched := touched || caps || ARRAY(SELECT "_tower_quota_members"(changed));
    -- Who opens books below a cap for the first time has them where they are locked here.
    INSERT INTO "_tower_quota_key" ("workspace", "resource")
    SELECT chr(31) || q."workspaceId", cap FROM "WorkspaceQuota" q, jsonb_object_keys(q."settings" -> 'caps') AS cap
    WHERE chr(31) || q."workspaceId" = ANY(caps) ORDER BY 1, 2 ON CONFLICT DO NOTHING;
  END IF;
  PERFORM FROM "_tower_quota_key" WHERE "workspace" = ANY(touched) ORDER BY "workspace", "resource" FOR UPDATE;
  UPDATE "_tower_quota_key" SET "counted" = NULL WHERE "workspace" = ANY(caps);
  PERFORM pg_notify('_tower_quota', 'moved ' || "books") FROM unnest(caps) AS "books";
  PERFORM pg_notify('_tower_quota', 'limits ' || changed);
  RETURN NULL;
END $$;

-- The units of a key that fences of this transaction hold: for new rows, and for rows that may be edited.
CREATE FUNCTION "_tower_quota_fenced"(p_workspace text, p_resource text, OUT made numeric, OUT edited numeric)
LANGUAGE sql AS $$
  SELECT coalesce(sum(f."made"), 0), coalesce(sum(f."edited"), 0)
  FROM (
    -- A note that a reservation left twice counts once. See `Fence::note`.
    SELECT note[2]::uuid AS "lease", max(note[3]::bigint) AS "made", max(note[4]::bigint) AS "edited"
    FROM string_to_table(current_setting('tower_quota.fence', true), ';') AS held,
      LATERAL string_to_array(held, ' ') AS note
    WHERE held <> ''
    GROUP BY note[1], note[2]
  ) f
  JOIN "_tower_quota_lease" l ON l."id" = f."lease"
  WHERE l."workspace" = p_workspace AND l."resource" = p_resource
$$;

-- The rows that this transaction has made of units that it holds, in some workspaces. As few of them as may be: the others
-- were edited.
CREATE FUNCTION "_tower_quota_own"(p_workspaces text[], p_resource text) RETURNS bigint
LANGUAGE sql AS $$
  SELECT coalesce(sum(greatest(used."rows"::bigint - fenced."edited", 0)), 0)::bigint
  FROM jsonb_each_text(coalesce(nullif(current_setting('tower_quota.used', true), ''), '{}')::jsonb) AS used("of", "rows"),
    unnest(p_workspaces) AS "workspace", LATERAL "_tower_quota_fenced"("workspace", p_resource) AS fenced
  WHERE used."of" = p_resource || ' ' || "workspace"
$$;

-- The keys that new rows of workspaces are entered in: their own, and those of the caps above, in the order in which all lock
-- them.
CREATE FUNCTION "_tower_quota_entered"(p_workspaces text[], p_resource text) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN ARRAY(
    SELECT DISTINCT "key" FROM unnest(p_workspaces) AS "workspace",
      unnest("workspace" || "_tower_quota_caps"("workspace", p_resource)) AS "key"
    ORDER BY "key");
END $$;

-- Its arguments: the resource type; the column of the workspace, and its type; the condition of the rows that count; the
-- column of "WorkspaceQuota" with the limit, and what is in force where that is NULL.
--
-- With its owner's rights: whoever writes rows need not have any on the books, nor see all rows. So not everybody may make a
-- trigger of it, whose arguments are run.
CREATE FUNCTION "_tower_quota_backstop"() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  p_resource text := TG_ARGV[0];
  p_column text := TG_ARGV[1];
  p_type text := TG_ARGV[2];
  p_filter text := TG_ARGV[3];
  p_field text := TG_ARGV[4];
  p_default bigint := TG_ARGV[5];
  -- The rows of some workspaces up to a number.
  count_sql text := format(
    'SELECT count(*) FROM (SELECT FROM %1$I.%2$I AS %2$I WHERE %2$I.%3$I = ANY($1::%4$s[]) AND (%5$s) LIMIT $2) AS counted',
    TG_TABLE_SCHEMA, TG_TABLE_NAME, p_column, p_type, p_filter);
  written record;
  -- Workspaces with rows that no units are held for; how many, and how many with the others.
  workspaces text[] := '{}';
  free_rows bigint[] := '{}';
  rows_of bigint[] := '{}';
  fenced record;
  used jsonb;
  spent bigint;
  covered bigint;
  own bigint;
  keys text[];
  books "_tower_quota_key"[];
  k "_tower_quota_key";
  -- What a key is of: a workspace, or, below a cap, all of these.
  top text;
  members text[];
  subject text;
  new_rows bigint;
  all_rows bigint;
  uncharged bigint;
  "limit" bigint;
  bound bigint;
  found_rows bigint;
BEGIN
  FOR written IN EXECUTE format(
    'SELECT %1$I.%2$I::text COLLATE "default" AS workspace, count(*) AS "rows" FROM "_tower_quota_new" AS %1$I
     WHERE %1$I.%2$I IS NOT NULL AND (%3$s) GROUP BY 1 ORDER BY 1', TG_TABLE_NAME, p_column, p_filter)
  LOOP
    new_rows := written."rows";
    IF current_setting('tower_quota.fence', true) <> '' THEN
      -- Rows of units that the transaction holds are in the books: in all that they were charged to.
      fenced := "_tower_quota_fenced"(written.workspace, p_resource);
      used := coalesce(nullif(current_setting('tower_quota.used', true), ''), '{}');
      spent := coalesce(used ->> (p_resource || ' ' || written.workspace), '0');
      covered := least(fenced.made + fenced.edited - spent, new_rows);
      IF covered > 0 THEN
        used := used || jsonb_build_object(p_resource || ' ' || written.workspace, spent + covered);
        PERFORM set_config('tower_quota.used', used::text, true);
        new_rows := new_rows - covered;
      END IF;
    END IF;
    CONTINUE WHEN new_rows = 0;
    workspaces := workspaces || written.workspace;
    free_rows := free_rows || new_rows;
    rows_of := rows_of || written."rows";
  END LOOP;
  IF NOT FOUND THEN
    -- No rows: when the trigger is made, it shows by that whether all of this can be run.
    EXECUTE format('SELECT %I FROM "WorkspaceQuota" WHERE false', p_field);
    EXECUTE count_sql USING NULL::text[], 0;
  END IF;
  IF workspaces = '{}' THEN
    RETURN NULL;
  END IF;

  IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
    -- Fails where limits were changed since the transaction began to see. The books do so by themselves.
    FOR written IN SELECT unnest(workspaces) AS workspace LOOP
      INSERT INTO "_tower_quota_change" SELECT "_tower_quota_origins"(written.workspace), 0 ON CONFLICT DO NOTHING;
      PERFORM FROM "_tower_quota_change" WHERE "workspace" IN (SELECT "_tower_quota_origins"(written.workspace)) FOR SHARE;
    END LOOP;
  END IF;
  IF EXISTS (
    SELECT FROM unnest(workspaces) AS "id" WHERE NOT EXISTS (
      SELECT FROM "_tower_quota_key" WHERE "workspace" = "id" AND "resource" = p_resource)
  ) THEN
    -- See `_tower_quota_open`: before books are locked, here.
    PERFORM pg_advisory_xact_lock_shared(128060827788645);
  END IF;
  keys := "_tower_quota_entered"(workspaces, p_resource);
  LOOP
    -- One order for all, and the one in which the ledger locks keys, so that no two wait for each other.
    books := ARRAY(SELECT "_tower_quota_open"("key", p_resource) FROM unnest(keys) AS "key");
    -- Caps stay while the books are locked. Those that came before that are locked out of order.
    EXIT WHEN "_tower_quota_entered"(workspaces, p_resource) = keys;
    keys := "_tower_quota_entered"(workspaces, p_resource);
  END LOOP;

  FOREACH k IN ARRAY books LOOP
    top := CASE WHEN left(k."workspace", 1) = chr(31) THEN substr(k."workspace", 2) END;
    IF top IS NULL THEN
      members := ARRAY[k."workspace"];
      subject := format('workspace "%s"', k."workspace");
      uncharged := 0;
    ELSE
      members := ARRAY(SELECT "_tower_quota_members"(top));
      subject := format('workspace "%s" and all below it', top);
      -- As in `_tower_quota_ask`.
      SELECT coalesce(sum("_tower_quota_rest"(o) + o."edits" - o."editsEnded"), 0) INTO uncharged FROM "_tower_quota_lease" o
      WHERE o."workspace" = ANY(members) AND o."resource" = p_resource AND k."workspace" <> ALL(o."charges");
    END IF;
    SELECT sum(w."free"), sum(w."all") INTO new_rows, all_rows
    FROM unnest(workspaces, free_rows, rows_of) AS w("workspace", "free", "all") WHERE w."workspace" = ANY(members);
    "limit" := "_tower_quota_limit"(k."workspace", p_resource, p_field, p_default, true);
    bound := k."counted" + k."posted" + k."carried" + k."leased" + uncharged;
    IF "limit" < 0 OR new_rows <= "limit" - bound THEN
      k."posted" := k."posted" + new_rows;
    ELSE
      -- The books don't know of rows that were deleted. The count sees the new rows, and those of the transaction's own
      -- units, which are leased too.
      EXECUTE count_sql INTO found_rows USING members, least("limit", 9223372036854775806) + 1;
      own := least("_tower_quota_own"(members, p_resource), k."leased" + uncharged);
      -- All that are being edited, while `_tower_quota_ask` carries no more than are missing: were that fewer, the books would
      -- have said what the count says.
      k."carried" := k."edits";
      IF found_rows > "limit" OR found_rows - own > "limit" - k."carried" - k."leased" - uncharged THEN
        RAISE EXCEPTION USING
          ERRCODE = 'configuration_limit_exceeded',
          MESSAGE = format(
            CASE WHEN top IS NULL THEN 'the limit of %s %s in %s is reached' ELSE 'the cap of %s %s on %s is reached' END,
            "limit", p_resource, subject),
          DETAIL = format('With the %s rows of this statement there would be %s%s, and requests in flight may make %s more.',
            all_rows, CASE WHEN found_rows > "limit" THEN 'at least ' ELSE '' END, found_rows,
            k."carried" + k."leased" + uncharged - own),
          HINT = CASE
            WHEN found_rows > "limit" THEN 'Delete rows, or raise the limit.'
            ELSE 'Try again: what is in flight ends within moments. Handlers that go through the layer hold their Fence '
              'before they write.' END,
          SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
      END IF;
      IF found_rows - own - new_rows > bound THEN
        RAISE LOG '% has % %, % more than its books allow: they were written around the backstop',
          subject, found_rows - own - new_rows, p_resource, found_rows - own - new_rows - bound;
      END IF;
      k."counted" := found_rows - own;
      k."posted" := 0;
    END IF;
    IF uncharged > 0 THEN
      -- What they make is told to nobody here.
      k."counted" := NULL;
    END IF;
    k."posts" := k."posts" + new_rows;
    PERFORM "_tower_quota_close"(k);
  END LOOP;
  RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION "_tower_quota_backstop"() FROM PUBLIC;
-- Where this migration finds the tables, and not a temporary one of the writer's before them.
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION "_tower_quota_backstop"() SET search_path = %s, pg_temp', current_setting('search_path'));
  EXECUTE format('ALTER FUNCTION "_tower_quota_limits"() SET search_path = %s, pg_temp', current_setting('search_path'));
END $$;

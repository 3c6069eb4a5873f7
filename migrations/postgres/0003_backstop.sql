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
  touched text[] := ARRAY[changed, chr(31) || changed];
  caps text[];
BEGIN
  INSERT INTO "_tower_quota_change" AS c VALUES (changed, 1)
  ON CONFLICT ("workspace") DO UPDATE SET "changes" = c."changes" + 1;
  IF TG_OP = 'INSERT' AND NEW."parent" IS NOT NULL OR TG_OP = 'UPDATE'
    AND (OLD."parent", OLD."settings" -> 'caps') IS DISTINCT FROM (NEW."parent", NEW."settings" -> 'caps') THEN
    -- Rows of this workspace and all below it count in other subtrees now. Leases of before know nothing of that: none is
    -- being granted from here on, and see `_tower_quota_ask` for those that there are.
    SELECT array_agg(chr(31) || "id") INTO caps FROM "_tower_quota_ancestors"(changed) AS "id";
    touched := touched || caps || ARRAY(SELECT "_tower_quota_members"(changed));
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
  -- The rows of a workspace up to a number.
  count_sql text := format(
    'SELECT count(*) FROM (SELECT FROM %1$I.%2$I AS %2$I WHERE %2$I.%3$I = $1::%4$s AND (%5$s) LIMIT $2) AS counted',
    TG_TABLE_SCHEMA, TG_TABLE_NAME, p_column, p_type, p_filter);
  written record;
  new_rows bigint;
  fenced record;
  used jsonb;
  spent bigint;
  covered bigint;
  own bigint;
  k "_tower_quota_key";
  "limit" bigint;
  bound bigint;
  found_rows bigint;
BEGIN
  FOR written IN EXECUTE format(
    -- One order for all, and the one in which the ledger locks keys, so that no two wait for each other.
    'SELECT %1$I.%2$I::text COLLATE "default" AS workspace, count(*) AS "rows" FROM "_tower_quota_new" AS %1$I
     WHERE %1$I.%2$I IS NOT NULL AND (%3$s) GROUP BY 1 ORDER BY 1', TG_TABLE_NAME, p_column, p_filter)
  LOOP
    new_rows := written."rows";
    own := 0;
    IF current_setting('tower_quota.fence', true) <> '' THEN
      -- Rows of units that the transaction holds are in the books.
      fenced := "_tower_quota_fenced"(written.workspace, p_resource);
      used := coalesce(nullif(current_setting('tower_quota.used', true), ''), '{}');
      spent := coalesce(used ->> (p_resource || ' ' || written.workspace), '0');
      covered := least(fenced.made + fenced.edited - spent, new_rows);
      IF covered > 0 THEN
        used := used || jsonb_build_object(p_resource || ' ' || written.workspace, spent + covered);
        PERFORM set_config('tower_quota.used', used::text, true);
        new_rows := new_rows - covered;
      END IF;
      -- Rows that are leased units, too. As few of them as may be: the others were edited.
      own := greatest(spent + covered - fenced.edited, 0);
    END IF;
    CONTINUE WHEN new_rows = 0;

    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
      -- Fails where limits were changed since the transaction began to see. The books do so by themselves.
      INSERT INTO "_tower_quota_change" SELECT "_tower_quota_origins"(written.workspace), 0 ON CONFLICT DO NOTHING;
      PERFORM FROM "_tower_quota_change" WHERE "workspace" IN (SELECT "_tower_quota_origins"(written.workspace)) FOR SHARE;
    END IF;
    k := "_tower_quota_open"(written.workspace, p_resource);
    "limit" := "_tower_quota_limit"(written.workspace, p_resource, p_field, p_default, true);
    bound := k."counted" + k."posted" + k."carried" + k."leased";
    IF "limit" < 0 OR new_rows <= "limit" - bound THEN
      k."posted" := k."posted" + new_rows;
    ELSE
      -- The books don't know of rows that were deleted. The count sees the new rows, and those of the transaction's own
      -- units, which are leased too.
      EXECUTE count_sql INTO found_rows USING written.workspace, least("limit", 9223372036854775806) + 1;
      own := least(own, k."leased");
      -- All that are being edited, while `_tower_quota_ask` carries no more than are missing: were that fewer, the books would
      -- have said what the count says.
      k."carried" := k."edits";
      IF found_rows > "limit" OR found_rows - own > "limit" - k."carried" - k."leased" THEN
        RAISE EXCEPTION USING
          ERRCODE = 'configuration_limit_exceeded',
          MESSAGE = format('the limit of %s %s in workspace "%s" is reached', "limit", p_resource, written.workspace),
          DETAIL = format('With the %s rows of this statement there would be %s%s, and requests in flight may make %s more.',
            written."rows", CASE WHEN found_rows > "limit" THEN 'at least ' ELSE '' END, found_rows,
            k."carried" + k."leased" - own),
          HINT = CASE
            WHEN found_rows > "limit" THEN 'Delete rows, or raise the limit.'
            ELSE 'Try again: what is in flight ends within moments. Handlers that go through the layer hold their Fence '
              'before they write.' END,
          SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
      END IF;
      IF found_rows - own - new_rows > bound THEN
        RAISE LOG 'workspace "%" has % %, % more than its books allow: they were written around the backstop',
          written.workspace, found_rows - own - new_rows, p_resource, found_rows - own - new_rows - bound;
      END IF;
      k."counted" := found_rows - own;
      k."posted" := 0;
    END IF;
    k."posts" := k."posts" + new_rows;
    PERFORM "_tower_quota_close"(k);
  END LOOP;
  IF NOT FOUND THEN
    -- No rows: when the trigger is made, it shows by that whether all of this can be run.
    EXECUTE format('SELECT %I FROM "WorkspaceQuota" WHERE false', p_field);
    EXECUTE count_sql USING NULL::text, 0;
  END IF;
  RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION "_tower_quota_backstop"() FROM PUBLIC;
-- Where this migration finds the tables, and not a temporary one of the writer's before them.
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION "_tower_quota_backstop"() SET search_path = %s, pg_temp', current_setting('search_path'));
  EXECUTE format('ALTER FUNCTION "_tower_quota_limits"() SET search_path = %s, pg_temp', current_setting('search_path'));
END $$;

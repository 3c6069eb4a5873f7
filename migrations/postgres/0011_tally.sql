-- Rows of resource types that nobody can count: what was posted, less what was told to be deleted, from where it was set. Where
-- one process keeps books of its own, there are at most as many as this says.
CREATE TABLE "QuotaTally" (
  "resource"    text NOT NULL,
  -- As bytes, since they are listed in that order.
  "workspaceId" text COLLATE "C" NOT NULL,
  -- Less than none where deletions were told of before the creations: by no more than may be told of yet.
  "rows"        bigint NOT NULL,
  PRIMARY KEY ("resource", "workspaceId")
) WITH (fillfactor = 50);

-- As before, and units that are posted are tallied in the same step: so a count that comes after it sees them.
CREATE OR REPLACE FUNCTION "_tower_quota_merge"(k "_tower_quota_key", before "_tower_quota_lease", l "_tower_quota_lease")
RETURNS "_tower_quota_key"
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  k."leased" := k."leased" - "_tower_quota_rest"(before) + "_tower_quota_rest"(l);
  k."posted" := k."posted" + l."posted" - before."posted";
  k."posts" := k."posts" + l."posted" - before."posted";
  k."edits" := k."edits" + (l."edits" - l."editsEnded") - (before."edits" - before."editsEnded");
  k."editsEnded" := k."editsEnded" + l."editsEnded" - before."editsEnded";
  IF l."posted" > before."posted" OR l."returned" > before."returned" THEN
    UPDATE "QuotaTally" SET "rows" = greatest("rows" + l."posted" - before."posted", -k."leased")
    WHERE "resource" = l."resource" AND "workspaceId" = l."workspace"
      AND (l."posted" > before."posted" OR "rows" < -k."leased");
  END IF;
  RETURN k;
END $$;

-- So many rows of a key were deleted. Who waits for units looks again.
CREATE FUNCTION "_tower_quota_deleted"(p_workspace text, p_resource text, p_rows bigint) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '4s' AS $$
DECLARE
  k "_tower_quota_key" := "_tower_quota_open"(p_workspace, p_resource);
BEGIN
  UPDATE "QuotaTally" SET "rows" = greatest("rows" - p_rows, -k."leased")
  WHERE "resource" = p_resource AND "workspaceId" = p_workspace;
  PERFORM "_tower_quota_free"(k);
END $$;

-- Has the rows of a key counted before more is granted: its tally is about to be set. Who waits for units looks again.
CREATE FUNCTION "_tower_quota_forget"(p_workspace text, p_resource text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  k "_tower_quota_key" := "_tower_quota_open"(p_workspace, p_resource);
BEGIN
  k."counted" := NULL;
  PERFORM "_tower_quota_close"(k), "_tower_quota_free"(k);
END $$;

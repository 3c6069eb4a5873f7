-- What replicas tell of themselves, for those who look after them: see src/engine/status.rs.

ALTER TABLE "_tower_quota_replica"
  -- By what it enforces, in the form of `ReplicaConfig`. One of an earlier version tells nothing.
  ADD COLUMN "config" jsonb,
  -- Only to be looked at: whether a replica is alive, its beats tell.
  ADD COLUMN "joinedAt" timestamptz,
  ADD COLUMN "seenAt" timestamptz;
-- Not with the columns: when the replicas of before this came, nobody knows.
ALTER TABLE "_tower_quota_replica" ALTER COLUMN "joinedAt" SET DEFAULT clock_timestamp();

-- A sign of life; answers all replicas. Those of an earlier epoch are not live.
CREATE OR REPLACE FUNCTION "_tower_quota_beat"(p_replica uuid) RETURNS TABLE ("id" uuid, "beats" bigint, "live" boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  this_epoch bigint := "_tower_quota_epoch"();
  now bigint;
BEGIN
  UPDATE "_tower_quota_replica" SET "beats" = "beats" + 1, "seenAt" = clock_timestamp()
  WHERE "id" = p_replica AND "live" AND "epoch" = this_epoch RETURNING "beats" INTO now;
  DELETE FROM "_tower_quota_ended" WHERE "replica" = p_replica AND "beats" < now - "_tower_quota_patience"();
  RETURN QUERY SELECT "id", "beats", "live" AND "epoch" = this_epoch FROM "_tower_quota_replica";
END $$;

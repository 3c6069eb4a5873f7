-- Usage over time: see src/insight. Times are milliseconds since 1970 (UTC).

CREATE TABLE "QuotaSnapshot" (
  -- In the order of its bytes, in which works over all workspaces go.
  "workspaceId" TEXT COLLATE "C" NOT NULL,
  "resourceType" TEXT NOT NULL,
  -- Where the hour or the day begins.
  "start" BIGINT NOT NULL,
  -- `hour` or `day`.
  "granularity" TEXT NOT NULL,
  -- When `last` and `limit` were read.
  "at" BIGINT NOT NULL,
  "last" BIGINT NOT NULL,
  "min" BIGINT NOT NULL,
  "max" BIGINT NOT NULL,
  -- -1 is unlimited.
  "limit" BIGINT NOT NULL,
  "refusals" BIGINT NOT NULL,
  PRIMARY KEY ("workspaceId", "resourceType", "start", "granularity")
);
-- What is merged or deleted next.
CREATE INDEX "_tower_quota_snapshot_age" ON "QuotaSnapshot" ("granularity", "start");

-- Works that one process at a time does.
CREATE TABLE "QuotaTask" (
  "task" TEXT NOT NULL PRIMARY KEY,
  -- Who does it, and until when.
  "claim" TEXT NOT NULL,
  "claimedUntil" BIGINT NOT NULL,
  -- When it is done next.
  "nextAt" BIGINT NOT NULL
);

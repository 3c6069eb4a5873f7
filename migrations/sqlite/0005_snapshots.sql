-- Usage over time: see src/insight. Times are milliseconds since 1970 (UTC).

CREATE TABLE "QuotaSnapshot" (
    "workspaceId" TEXT NOT NULL,
    "resourceType" TEXT NOT NULL,
    -- Where the hour or the day begins.
    "start" INTEGER NOT NULL,
    -- `hour` or `day`.
    "granularity" TEXT NOT NULL,
    -- When `last` and `limit` were read.
    "at" INTEGER NOT NULL,
    "last" INTEGER NOT NULL,
    "min" INTEGER NOT NULL,
    "max" INTEGER NOT NULL,
    -- -1 is unlimited.
    "limit" INTEGER NOT NULL,
    "refusals" INTEGER NOT NULL,
    PRIMARY KEY ("workspaceId", "resourceType", "start", "granularity")
) STRICT, WITHOUT ROWID;
-- What is merged or deleted next.
CREATE INDEX "_tower_quota_snapshot_age" ON "QuotaSnapshot" ("granularity", "start");

-- Works that one process at a time does.
CREATE TABLE "QuotaTask" (
    "task" TEXT NOT NULL PRIMARY KEY,
    -- Who does it, and until when.
    "claim" TEXT NOT NULL,
    "claimedUntil" INTEGER NOT NULL,
    -- When it is done next.
    "nextAt" INTEGER NOT NULL
) STRICT;

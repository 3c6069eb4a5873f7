-- How full workspaces were when they were last looked at, to list them by.
CREATE TABLE "QuotaOverview" (
    "workspaceId" TEXT NOT NULL PRIMARY KEY,
    -- Minus the percentage of the resource type that is nearest to its limit: the fullest come first, and those that are
    -- as full as each other go by their ids, in one order of an index.
    "rank" INTEGER NOT NULL,
    -- Milliseconds since 1970 (UTC).
    "at" INTEGER NOT NULL,
    -- JSON: usage and limit by resource type.
    "usage" TEXT NOT NULL
) STRICT;
CREATE INDEX "_tower_quota_overview" ON "QuotaOverview" ("rank", "workspaceId");

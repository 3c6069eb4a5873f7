-- One row per workspace. Each resource type of the catalog adds a column named after its limit field when a store
-- opens the database: NULL where no limit was set (the default applies), -1 for unlimited, else the limit.
CREATE TABLE "WorkspaceQuota" (
    "id" UUID NOT NULL PRIMARY KEY,
    "workspaceId" TEXT NOT NULL UNIQUE,
    "version" BIGINT NOT NULL CHECK ("version" >= 1),
    "createdAt" TIMESTAMPTZ NOT NULL,
    "updatedAt" TIMESTAMPTZ NOT NULL
);

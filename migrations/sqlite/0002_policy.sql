-- What a limit depends on beside what was set: see src/policy.
ALTER TABLE "WorkspaceQuota" ADD COLUMN "plan" TEXT;
ALTER TABLE "WorkspaceQuota" ADD COLUMN "parent" TEXT;
-- JSON, in the form of `Settings`.
ALTER TABLE "WorkspaceQuota" ADD COLUMN "settings" TEXT NOT NULL DEFAULT '{}';
CREATE INDEX "_tower_quota_plan" ON "WorkspaceQuota" ("plan");
CREATE INDEX "_tower_quota_parent" ON "WorkspaceQuota" ("parent");

CREATE TABLE "QuotaPlan" (
    "name" TEXT NOT NULL PRIMARY KEY,
    -- JSON: its version, its limits by their fields, and its times.
    "document" TEXT NOT NULL
) STRICT;

CREATE TABLE "QuotaRequest" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "workspaceId" TEXT NOT NULL,
    "status" TEXT NOT NULL,
    -- JSON, in the form of `IncreaseRequest`.
    "document" TEXT NOT NULL
) STRICT;
CREATE INDEX "_tower_quota_request" ON "QuotaRequest" ("workspaceId", "id");
CREATE INDEX "_tower_quota_request_status" ON "QuotaRequest" ("status", "id");

-- Who changed what.
CREATE TABLE "QuotaAudit" (
    "seq" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "at" TEXT NOT NULL,
    "actor" TEXT NOT NULL,
    "origin" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "workspaceId" TEXT,
    "resourceType" TEXT,
    "old" TEXT NOT NULL,
    "new" TEXT NOT NULL,
    "reason" TEXT
) STRICT;
CREATE INDEX "_tower_quota_audit_workspace" ON "QuotaAudit" ("workspaceId", "seq");
CREATE INDEX "_tower_quota_audit_resource" ON "QuotaAudit" ("resourceType", "seq");
CREATE TRIGGER "_tower_quota_audit_update" BEFORE UPDATE ON "QuotaAudit"
BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TRIGGER "_tower_quota_audit_delete" BEFORE DELETE ON "QuotaAudit"
BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;

-- How far works of many steps have come.
CREATE TABLE "QuotaProgress" (
    "work" TEXT NOT NULL PRIMARY KEY,
    "progress" TEXT NOT NULL
) STRICT;

-- What reports count of a time, of a workspace with however many entries.
CREATE INDEX "_tower_quota_audit_at" ON "QuotaAudit" ("workspaceId", "at");

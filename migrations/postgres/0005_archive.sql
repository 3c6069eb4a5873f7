-- Rows that a cleanup has removed with the policy `archive`, each as one JSON object of its columns.
CREATE TABLE "QuotaArchive" (
    "id" BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "workspaceId" TEXT NOT NULL,
    "resourceType" TEXT NOT NULL,
    "row" JSON NOT NULL,
    "archivedAt" TIMESTAMPTZ NOT NULL
);
CREATE INDEX "QuotaArchiveByWorkspace" ON "QuotaArchive" ("workspaceId", "resourceType");

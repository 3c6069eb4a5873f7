-- Rows that a cleanup has removed with the policy `archive`, each as one JSON object of its columns. A blob is
-- {"blob": "its bytes in hexadecimal"}.
CREATE TABLE "QuotaArchive" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "workspaceId" TEXT NOT NULL,
    "resourceType" TEXT NOT NULL,
    "row" TEXT NOT NULL CHECK (json_valid("row")),
    "archivedAt" TEXT NOT NULL
) STRICT;
CREATE INDEX "QuotaArchiveByWorkspace" ON "QuotaArchive" ("workspaceId", "resourceType");

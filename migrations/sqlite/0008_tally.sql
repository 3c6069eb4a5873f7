-- Rows of resource types that nobody can count: there are at most so many, by what was posted, less what was told to be deleted,
-- from where it was set.
CREATE TABLE "QuotaTally" (
    "resource" TEXT NOT NULL,
    "workspaceId" TEXT NOT NULL,
    "rows" INTEGER NOT NULL CHECK ("rows" >= 0),
    PRIMARY KEY ("resource", "workspaceId")
) STRICT, WITHOUT ROWID;

-- What is told when a limit comes near: see src/events. Times are milliseconds since 1970 (UTC).

-- Which thresholds are reached, as JSON.
CREATE TABLE "QuotaThreshold" (
  "workspaceId" TEXT NOT NULL,
  "resourceType" TEXT NOT NULL,
  "marks" TEXT NOT NULL,
  PRIMARY KEY ("workspaceId", "resourceType")
);

CREATE TABLE "QuotaNotice" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "workspaceId" TEXT NOT NULL,
  "resourceType" TEXT NOT NULL,
  "event" TEXT NOT NULL,
  -- Byte for byte what is signed and sent.
  "body" TEXT NOT NULL,
  "at" BIGINT NOT NULL
);
CREATE INDEX "_tower_quota_notice_at" ON "QuotaNotice" ("at");

CREATE TABLE "QuotaEndpoint" (
  "id" TEXT NOT NULL PRIMARY KEY,
  -- Of all workspaces where it is NULL.
  "workspaceId" TEXT,
  "active" BIGINT NOT NULL,
  "pausedUntil" BIGINT NOT NULL,
  -- JSON, in the form of `Endpoint`.
  "document" TEXT NOT NULL
);

CREATE TABLE "QuotaDelivery" (
  "id" TEXT NOT NULL PRIMARY KEY,
  "noticeId" TEXT NOT NULL,
  -- `webhook` or `email`.
  "channel" TEXT NOT NULL,
  -- An endpoint's id, or an e-mail address, or `email` before it is known who gets it.
  "target" TEXT NOT NULL,
  "status" TEXT NOT NULL,
  "attempts" BIGINT NOT NULL,
  -- When it is tried next, or when it ended.
  "nextAt" BIGINT NOT NULL,
  -- The worker that has it, and until when.
  "claim" TEXT NOT NULL DEFAULT '',
  "claimedUntil" BIGINT NOT NULL DEFAULT 0,
  -- The last tries, as JSON.
  "log" TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX "_tower_quota_delivery_due" ON "QuotaDelivery" ("status", "nextAt");
CREATE INDEX "_tower_quota_delivery_target" ON "QuotaDelivery" ("target", "id");
CREATE INDEX "_tower_quota_delivery_notice" ON "QuotaDelivery" ("noticeId");
CREATE INDEX "_tower_quota_delivery_claim" ON "QuotaDelivery" ("claim") WHERE "claim" <> '';

-- Who is written to.
CREATE TABLE "QuotaContact" (
  "workspaceId" TEXT NOT NULL,
  "email" TEXT NOT NULL,
  PRIMARY KEY ("workspaceId", "email")
);

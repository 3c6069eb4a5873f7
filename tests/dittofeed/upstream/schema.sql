-- The tables of Dittofeed that matter here, in their shapes: ids are UUIDs, names are unique in a workspace, and the
-- column store of users is a table of its own.
CREATE TYPE "DBResourceType" AS ENUM ('Declarative', 'Internal');

CREATE TABLE "Secret" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "value" text,
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "WriteKey" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "secretId" uuid NOT NULL REFERENCES "Secret" ("id"),
  UNIQUE ("workspaceId", "secretId")
);

CREATE TABLE "SegmentIOConfiguration" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL UNIQUE,
  "sharedSecret" text NOT NULL
);

CREATE TABLE "SubscriptionGroup" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "type" text NOT NULL DEFAULT 'OptOut',
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "Segment" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "definition" jsonb NOT NULL DEFAULT '{}',
  "resourceType" "DBResourceType" NOT NULL DEFAULT 'Declarative',
  "subscriptionGroupId" uuid REFERENCES "SubscriptionGroup" ("id") ON DELETE CASCADE,
  "status" text NOT NULL DEFAULT 'Running',
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "Journey" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "definition" jsonb,
  "resourceType" "DBResourceType" NOT NULL DEFAULT 'Declarative',
  "status" text NOT NULL DEFAULT 'NotStarted',
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "MessageTemplate" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "definition" jsonb,
  "resourceType" "DBResourceType" NOT NULL DEFAULT 'Declarative',
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "Broadcast" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "config" jsonb,
  "archived" boolean DEFAULT false,
  "status" text NOT NULL DEFAULT 'NotStarted',
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "UserProperty" (
  "id" uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  "workspaceId" uuid NOT NULL,
  "name" text NOT NULL,
  "definition" jsonb NOT NULL DEFAULT '{}',
  "resourceType" "DBResourceType" NOT NULL DEFAULT 'Declarative',
  "createdAt" timestamp(3) NOT NULL DEFAULT now(),
  UNIQUE ("workspaceId", "name")
);

CREATE TABLE "ColumnStoreUser" (
  "workspaceId" uuid NOT NULL,
  "userId" text NOT NULL,
  PRIMARY KEY ("workspaceId", "userId")
);

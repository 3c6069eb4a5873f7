/** The shapes of the API, as its contract has them. Times are RFC 3339 in UTC, dates are `YYYY-MM-DD`. */

/**
 * A number of rows: a `bigint` where a `number` would not be exact (beyond 2^53 - 1), else a `number`.
 *
 * Both can be compared with each other. To calculate, decide for one: `Number(count)` or `BigInt(count)`.
 */
export type Count = number | bigint;

/** How many rows there may be: 0 to 2^63 - 1, or `null` for any number. */
export type Limit = Count | null;

/** Limits by their fields, such as `maxSegments`. */
export type Limits = Readonly<Record<string, Limit>>;

/** By resource type, such as `segments`. */
export type ByType<T> = Readonly<Record<string, T>>;

export type Mode = "off" | "warn" | "enforce" | "strict";

/** A time to send: a `Date`, or its text. */
export type Time = Date | string;

/** What came with the version that it belongs to, to be sent back as `ifMatch`. */
export interface Versioned {
  readonly etag: string;
}

export interface Quota {
  readonly id: string;
  readonly workspaceId: string;
  readonly limits: Limits;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface QuotaStatus extends Versioned {
  readonly quota: Quota;
  readonly usage: ByType<Count>;
  /** Whole percent of the limit, rounded down; 0 without a limit. */
  readonly percentages: ByType<number>;
}

export interface ExplainedStatus extends QuotaStatus {
  readonly explain: ByType<Explanation>;
}

/** Why a limit is what it is. */
export interface Explanation {
  readonly limit: Limit;
  readonly source: LimitStep["source"];
  /** All that say something, the one in force first. */
  readonly trace: readonly LimitStep[];
  /** Those on the workspace and on all above it. */
  readonly caps: readonly { readonly workspaceId: string; readonly cap: Limit; readonly exceeded: boolean }[];
  readonly grace?: { readonly limit: Limit; readonly endsAt: string };
}

export type LimitStep = { readonly limit: Limit } & (
  | { readonly source: "temporaryOverride"; readonly id: string; readonly expiresAt: string; readonly reason: string }
  | { readonly source: "override" }
  | { readonly source: "plan"; readonly plan: string }
  | { readonly source: "inherited"; readonly parent: string; readonly percent: number; readonly parentLimit: Limit }
  | { readonly source: "default" }
);

export interface QuotaUpdate extends Versioned {
  readonly quota: Quota;
  /** Which of the new limits are below usage, or above a cap. They are in force. */
  readonly warnings: readonly string[];
}

/** Whether a creation would pass. Advice: nothing is reserved. */
export interface Verdict {
  readonly allowed: boolean;
  readonly currentUsage: Count;
  readonly limit: Limit;
  /** Before the creation; `null` without a limit. */
  readonly remaining: Count | null;
  readonly percentUsed: number;
  /** `true` and `allowed` in the modes `off` and `warn`. */
  readonly wouldExceed: boolean;
  /** Units of requests in flight, where only these stand in the way. */
  readonly reserved?: Count;
}

export interface Recount {
  readonly workspaceId: string;
  readonly usage: ByType<Count>;
  readonly corrections: readonly {
    readonly resourceType: string;
    readonly cached: Count;
    readonly actual: Count;
    /** `actual` less `cached`. */
    readonly drift: Count;
  }[];
  readonly recalculatedAt: string;
}

/** Rows of types that the ledger alone counts. */
export interface TallySet {
  readonly workspaceId: string;
  /** What the ledger had. */
  readonly before: ByType<Count>;
  /** What it has now. */
  readonly rows: ByType<Count>;
}

export interface Grace {
  readonly enabled: boolean;
  /** How much over the limit. */
  readonly percentage: number;
  /** In seconds, from the first overrun. */
  readonly duration: number;
  /** The resource types that have it. */
  readonly resources: readonly string[];
}

export interface TemporaryOverride {
  readonly id: string;
  readonly resourceType: string;
  readonly limit: Limit;
  readonly startsAt: string;
  readonly expiresAt: string;
  readonly reason: string;
  readonly createdBy: string;
}

export interface Settings extends Versioned {
  readonly workspaceId: string;
  readonly plan: string | null;
  readonly parent: string | null;
  /** In percent of the parent's limit. */
  readonly shares: ByType<number>;
  /** Limits on the workspace and all below it together. */
  readonly caps: ByType<Limit>;
  /** `null` for that of all. */
  readonly mode: Mode | null;
  readonly modes: ByType<Mode>;
  readonly grace: Grace | null;
  /** Those that have begun. */
  readonly graceUses: ByType<{ readonly startedAt: string; readonly endsAt: string; readonly percentage: number }>;
  readonly overrides: readonly TemporaryOverride[];
}

/** What is left out stays as it is; `null` takes back. */
export interface SettingsChange {
  readonly plan?: string | null;
  readonly parent?: string | null;
  readonly shares?: ByType<number | null>;
  readonly caps?: ByType<Limit>;
  readonly mode?: Mode | null;
  readonly modes?: ByType<Mode | null>;
  readonly grace?: Grace | null;
  readonly reason?: string;
}

export interface NewOverride {
  readonly resourceType: string;
  readonly limit: Limit;
  /** Now, if left out. */
  readonly startsAt?: Time;
  readonly expiresAt: Time;
  readonly reason: string;
}

export type RequestStatus = "pending" | "approved" | "denied" | "withdrawn";

/** A wish for a higher limit. */
export interface IncreaseRequest {
  readonly id: string;
  readonly workspaceId: string;
  readonly resourceType: string;
  /** By how many rows. */
  readonly amount: Count;
  readonly reason: string;
  readonly status: RequestStatus;
  readonly requestedBy: string;
  readonly createdAt: string;
  readonly decidedBy: string | null;
  readonly decidedAt: string | null;
  readonly note: string | null;
  /** `null` for good. */
  readonly expiresAt: string | null;
}

export interface NewRequest {
  readonly resourceType: string;
  readonly amount: Count;
  readonly reason: string;
}

export interface RequestFilter {
  readonly status?: RequestStatus;
}

/** One change. What `old` and `new` are, depends on `action`. */
export interface AuditEntry {
  readonly seq: number;
  readonly at: string;
  readonly actor: string;
  readonly origin: string;
  /** Such as `limit_set`. */
  readonly action: string;
  readonly workspaceId: string | null;
  readonly resourceType: string | null;
  readonly old: unknown;
  readonly new: unknown;
  readonly reason: string | null;
}

export interface AuditFilter {
  readonly resourceType?: string;
  readonly since?: Time;
  readonly until?: Time;
}

export interface SystemAuditFilter extends AuditFilter {
  readonly workspaceId?: string;
}

export interface Plan {
  readonly name: string;
  readonly version: number;
  readonly limits: Limits;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface NewCleanup {
  readonly resourceType: string;
  /** `true`, if left out. */
  readonly dryRun?: boolean;
  /** How many rows are removed in one transaction. */
  readonly batch?: number;
}

export interface Cleanup {
  readonly resourceType: string;
  readonly policy: "report" | "archive" | "delete";
  readonly dryRun: boolean;
  /** Rows above the limit before. */
  readonly above: Count;
  readonly removed: Count;
  /** The ids of those that were removed, or would be, the newest first; at most a thousand. */
  readonly rows: readonly string[];
}

export type Granularity = "hour" | "day" | "week" | "month";

export interface AnalyticsQuery {
  /** Both dates are inclusive. */
  readonly startDate?: string;
  readonly endDate?: string;
  readonly granularity?: Granularity;
}

export interface Analytics {
  readonly workspaceId: string;
  /** Both dates are inclusive. */
  readonly startDate: string;
  readonly endDate: string;
  readonly granularity: Granularity;
  /** In which days begin and end: `UTC`. */
  readonly timeZone: string;
  readonly trends: readonly {
    /** Where the bucket begins: a day, or, by the hour, a time. */
    readonly date: string;
    readonly usage: ByType<Count>;
    /** Creations that were refused in it, by the types of which any were. */
    readonly refusals?: ByType<Count>;
    /** The types of which nothing was read in it: they have what was known before. */
    readonly carried?: readonly string[];
  }[];
  readonly forecast: ByType<Forecast>;
}

/** When a limit is expected to be reached; `reason` says why it can't be told, where it can't. */
export interface Forecast {
  readonly projectedDate: string | null;
  readonly daysUntilLimit: number | null;
  /** Per day, as a part of current usage. */
  readonly growthRate: number | null;
  readonly earliest?: string | null;
  readonly latest?: string | null;
  readonly reason?: string | null;
}

export interface ReportQuery {
  readonly period?: "daily" | "weekly" | "monthly";
  /** A day of the period; today, if left out. */
  readonly date?: string;
}

/** What became of one resource type of a workspace. What isn't known is `null`. */
export interface ReportRow {
  readonly workspaceId: string;
  readonly resourceType: string;
  readonly period: "daily" | "weekly" | "monthly";
  readonly start: string;
  readonly end: string;
  readonly min: Count | null;
  readonly max: Count | null;
  readonly last: Count | null;
  /** Also `null` where there is no limit: `percent` is then 0. */
  readonly limit: Limit;
  readonly percent: number | null;
  readonly refusals: number | null;
  readonly graceUses: number | null;
  readonly limitChanges: number | null;
}

export interface Report {
  readonly period: "daily" | "weekly" | "monthly";
  readonly start: string;
  readonly end: string;
  /** In which days begin and end: `UTC`. */
  readonly timeZone: string;
  readonly rows: readonly ReportRow[];
}

export interface ImportOptions {
  readonly percent?: number;
  readonly floor?: Count;
  readonly allowLowering?: boolean;
  /** Sets the limits; proposes them only, if left out. */
  readonly apply?: boolean;
  readonly batch?: number;
  readonly name?: string;
  /** `summary.after` of the call before, to go on where it ended. */
  readonly after?: string;
}

export interface Import {
  readonly summary: {
    readonly workspaces: number;
    readonly set: number;
    readonly raised: number;
    readonly lowered: number;
    readonly kept: number;
    readonly invalid: number;
    readonly invalidIds: readonly string[];
    readonly after: string | null;
    /** Call again until it is. */
    readonly done: boolean;
  };
  readonly proposals: readonly {
    readonly workspaceId: string;
    readonly resourceType: string;
    readonly usage: Count;
    readonly existing: Limit | "unset";
    readonly proposed: Limit;
    readonly taken: boolean;
  }[];
}

/** Whom `enforce` would refuse. */
export interface Readiness {
  readonly workspaces: number;
  readonly wouldRefuse: boolean;
  readonly types: ByType<{
    readonly full: number;
    readonly over: number;
    readonly worst: readonly { readonly workspaceId: string; readonly usage: Count; readonly limit: Limit }[];
  }>;
}

/** What other limits would have refused. */
export interface Shadow {
  readonly since: string;
  readonly evaluated: number;
  readonly wouldRefuse: number;
  readonly workspaces: readonly {
    readonly workspaceId: string;
    readonly resourceType: string;
    readonly refusals: number;
    readonly usage: Count;
    readonly limit: Limit;
  }[];
}

/** How a set-up stands. */
export interface SystemStatus {
  readonly store: {
    readonly kind: "sqlite" | "postgres" | "other";
    /** The version of the tables, and the newest one that the program knows; `null` where they have none. */
    readonly schema: { readonly applied: number; readonly known: number } | null;
  };
  /** Where units are granted. */
  readonly ledger: "process" | "postgres";
  readonly promise: "exact" | "bounded";
  readonly replicas: readonly Replica[];
}

/** A process that enforces limits. Its times are by the database's clock. */
export interface Replica {
  /** `null` where there is one process. */
  readonly id: string | null;
  /** It is the one that answers. */
  readonly this: boolean;
  readonly joinedAt: string | null;
  readonly seenAt: string | null;
  /** What it enforces; `null` where it doesn't tell. */
  readonly config: {
    readonly version: string;
    readonly schema: number | null;
    readonly mode: Mode;
    readonly modes: ByType<Mode>;
    readonly workspaceFormat: "verbatim" | "lowercase" | "uuid";
    readonly types: ByType<{ readonly limitField: string; readonly defaultLimit: Limit }>;
  } | null;
}

export interface Enforcement {
  readonly mode: Mode;
  readonly source: "default" | "environment" | "code" | "runtime";
  readonly promise: "exact" | "bounded";
  /** Of the resource types that have a mode of their own. */
  readonly types: ByType<Mode>;
}

/** One of the two, or both. */
export interface EnforcementChange {
  readonly mode?: Mode;
  readonly types?: ByType<Mode | null>;
}

export type EventKind = "quota.warning" | "quota.exceeded";

export interface Webhook {
  readonly id: string;
  /** `null` for all workspaces. */
  readonly workspaceId: string | null;
  readonly url: string;
  readonly events: readonly EventKind[];
  readonly description: string;
  readonly status: "active" | "disabled";
  /** Since the last delivery that succeeded. */
  readonly failures: number;
  readonly pausedUntil: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** The only shape that has the secret: keep it. */
export interface WebhookWithSecret extends Webhook {
  readonly secret: string;
}

export interface NewWebhook {
  readonly url: string;
  readonly workspaceId?: string;
  readonly events?: readonly EventKind[];
  readonly description?: string;
  readonly active?: boolean;
  readonly secret?: string;
}

export interface WebhookChange {
  readonly url?: string;
  readonly events?: readonly EventKind[];
  readonly description?: string;
  readonly active?: boolean;
}

export type DeliveryStatus = "pending" | "delivered" | "dead";

export interface Delivery {
  readonly id: string;
  /** The `webhook-id` of all tries. */
  readonly notice: string;
  readonly status: DeliveryStatus;
  readonly attempts: number;
  readonly nextAt: string | null;
  readonly log: readonly { readonly at: string; readonly tookMs: number; readonly ok: boolean; readonly result: string }[];
  readonly body: unknown;
}

export interface DeliveryFilter {
  readonly status?: DeliveryStatus;
}

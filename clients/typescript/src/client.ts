import { errorOf, UnexpectedAnswer, type QuotaError } from "./errors.js";
import { type Call, type CallOptions, type ChangeOptions, type ClientOptions, MAX_BODY, type Query, readText, Transport } from "./http.js";
import type * as t from "./types.js";

/**
 * The client of one API. Its methods throw a `QuotaError`; what they are given is checked by the server, but for what can't
 * be sent at all, which is a `TypeError`.
 *
 * ```ts
 * const client = new QuotaClient({ baseUrl: "https://example.com/api", token });
 * const { usage } = await client.workspace("acme").status();
 * ```
 */
export class QuotaClient {
  readonly #transport: Transport;
  readonly plans: Plans;
  readonly webhooks: Webhooks;
  readonly system: System;

  constructor(options: ClientOptions) {
    this.#transport = new Transport(options);
    this.plans = new Plans(this.#transport);
    this.webhooks = new Webhooks(this.#transport);
    this.system = new System(this.#transport);
  }

  /** One workspace. Nothing is sent yet. */
  workspace(id: string): Workspace {
    return new Workspace(this.#transport, id);
  }
}

/**
 * The error that an answer of the host's own routes stands for, where they are behind a `QuotaLayer`: `QuotaExceeded` for a
 * creation that is one too many.
 *
 * ```ts
 * const response = await fetch("/workspaces/acme/segments", { method: "POST", body });
 * if (!response.ok) throw await errorFrom(response);
 * ```
 */
export async function errorFrom(response: Response): Promise<QuotaError> {
  return errorOf(response.status, response.headers, await readText(response, MAX_BODY));
}

/** What all of the API's parts do: a call, and a field of its answer. */
class Part {
  protected readonly transport: Transport;

  constructor(transport: Transport) {
    this.transport = transport;
  }

  /** The whole answer, with the fields that it has to have. */
  protected async whole<T>(call: Call, fields: readonly (keyof T & string)[], options?: CallOptions): Promise<T> {
    return checked(fields, (await this.transport.json(call, options)).body) as T;
  }

  /** One field of the answer. */
  protected async field<T>(call: Call, name: string, options?: CallOptions): Promise<T> {
    return checked([name], (await this.transport.json(call, options)).body)[name] as T;
  }

  /** The field of all pages. */
  protected async *pages<T>(path: readonly string[], query: Query, name: string, options?: CallOptions): AsyncGenerator<T, void, undefined> {
    let cursor: string | undefined;
    for (;;) {
      const call: Call = { method: "GET", path, query: { ...query, limit: PAGE, cursor } };
      const { body } = await this.transport.json(call, options);
      const { [name]: entries, next } = checked([name, "next"], body);
      yield* entries as T[];
      if (typeof next !== "string") {
        return;
      }
      if (next === cursor) {
        throw new UnexpectedAnswer("the next page is the one that was just read", 200);
      }
      cursor = next;
    }
  }
}

/** How many entries are asked for at once. */
const PAGE = 500;

function checked(fields: readonly string[], body: Record<string, unknown>): Record<string, unknown> {
  const missing = fields.find((field) => !Object.hasOwn(body, field));
  if (missing !== undefined) {
    throw new UnexpectedAnswer(`the answer has no \`${missing}\`: is this the quota API?`, 200);
  }
  return body;
}

function csv(path: readonly string[], query: t.ReportQuery): Call {
  return { method: "GET", path, query: { ...query, format: "csv" }, accept: "text/csv, application/json" };
}

/** On the wire, limits stand among the other fields of a quota. */
function quotaOf(body: Record<string, unknown>): t.Quota {
  const { id, workspaceId, createdAt, updatedAt, ...limits } = body["quota"] as Record<string, unknown>;
  return { id, workspaceId, limits, createdAt, updatedAt } as t.Quota;
}

/** The quota of one workspace. */
export class Workspace extends Part {
  readonly id: string;

  constructor(transport: Transport, id: string) {
    super(transport);
    this.id = id;
  }

  #path(...rest: string[]): string[] {
    return ["workspaces", this.id, "quota", ...rest];
  }

  async #update(call: Call, options?: ChangeOptions): Promise<t.QuotaUpdate> {
    const { body, etag } = await this.transport.json(call, options);
    checked(["quota"], body);
    return { quota: quotaOf(body), warnings: (body["warnings"] ?? []) as string[], etag };
  }

  async #settings(call: Call, options?: ChangeOptions): Promise<t.Settings> {
    const { body, etag } = await this.transport.json(call, options);
    const { workspaceId, settings } = checked(["workspaceId", "settings"], body);
    return { workspaceId, graceUses: {}, ...(settings as object), etag } as t.Settings;
  }

  /** Limits and usage. */
  async status(options?: CallOptions): Promise<t.QuotaStatus> {
    const { body, etag } = await this.transport.json({ method: "GET", path: this.#path() }, options);
    const { usage, percentages } = checked(["quota", "usage", "percentages"], body);
    return { quota: quotaOf(body), usage, percentages, etag } as t.QuotaStatus;
  }

  /** The same, and why limits are what they are. */
  async explain(options?: CallOptions): Promise<t.ExplainedStatus> {
    const call: Call = { method: "GET", path: this.#path(), query: { explain: true } };
    const { body, etag } = await this.transport.json(call, options);
    const { usage, percentages, explain } = checked(["quota", "usage", "percentages", "explain"], body);
    return { quota: quotaOf(body), usage, percentages, explain, etag } as t.ExplainedStatus;
  }

  /** Sets limits by their fields: `{ maxSegments: 100 }`, `null` for unlimited. Those left out stay. For admins. */
  async setLimits(limits: t.Limits, options?: ChangeOptions & { readonly reason?: string }): Promise<t.QuotaUpdate> {
    const reason = options?.reason;
    const body = reason === undefined ? limits : { ...limits, reason };
    return this.#update({ method: "PUT", path: this.#path(), body }, options);
  }

  /** Takes the workspace's own limit back: what comes after it applies. For admins. */
  async clearLimit(resourceType: string, options?: ChangeOptions): Promise<t.QuotaUpdate> {
    return this.#update({ method: "DELETE", path: this.#path("limits", resourceType) }, options);
  }

  /**
   * Deletes the record: the defaults are in force. What the workspace has of its own goes as well: its webhooks with their
   * deliveries, contacts, thresholds that it had reached, and snapshots. Its rows, requests and audit log stay. For admins.
   */
  async delete(options?: ChangeOptions): Promise<void> {
    await this.whole({ method: "DELETE", path: this.#path() }, [], options);
  }

  /**
   * Whether `increment` rows more would be allowed. With `soft`, a refusal is an answer with `allowed: false`.
   *
   * @throws QuotaExceeded where they would not, unless `soft`.
   */
  async validate(resourceType: string, increment: t.Count = 1, options?: CallOptions & { readonly soft?: boolean }): Promise<t.Verdict> {
    const query = options?.soft === true ? { soft: true } : {};
    const call: Call = { method: "POST", path: this.#path("validate"), query, body: { resourceType, increment } };
    return this.whole<t.Verdict>(call, ["allowed", "currentUsage", "limit", "remaining", "percentUsed", "wouldExceed"], options);
  }

  /** Counts the rows anew. With `dryRun`, it is only told what would be corrected. For admins. */
  async recalculate(options?: CallOptions & { readonly dryRun?: boolean }): Promise<t.Recount> {
    const query = options?.dryRun === true ? { dryRun: true } : {};
    const call: Call = { method: "POST", path: this.#path("recalculate"), query };
    return this.whole<t.Recount>(call, ["workspaceId", "usage", "corrections", "recalculatedAt"], options);
  }

  /**
   * Sets how many rows there are of types that the ledger alone counts: `{ segments: 45 }`. All types that are named are set,
   * or none. For admins.
   *
   * @throws InvalidRequest for a type that is counted otherwise.
   */
  async setTally(rows: t.ByType<t.Count>, options?: CallOptions & { readonly reason?: string }): Promise<t.TallySet> {
    const call: Call = { method: "PUT", path: this.#path("tally"), body: { rows, reason: options?.reason } };
    return this.whole<t.TallySet>(call, ["workspaceId", "before", "rows"], options);
  }

  /** Tells which rows are above the limit, or removes them. For admins. */
  async cleanup(cleanup: t.NewCleanup, options?: CallOptions): Promise<t.Cleanup> {
    const call: Call = { method: "POST", path: this.#path("cleanup"), body: cleanup };
    return this.whole<t.Cleanup>(call, ["resourceType", "policy", "dryRun", "above", "removed", "rows"], options);
  }

  /** What limits come from, beside the workspace's own. */
  async settings(options?: CallOptions): Promise<t.Settings> {
    return this.#settings({ method: "GET", path: this.#path("settings") }, options);
  }

  /** Changes the settings that are named. For admins. */
  async changeSettings(change: t.SettingsChange, options?: ChangeOptions): Promise<t.Settings> {
    return this.#settings({ method: "PUT", path: this.#path("settings"), body: change }, options);
  }

  /** Limits that are in force for a time, now or later. */
  async overrides(options?: CallOptions): Promise<readonly t.TemporaryOverride[]> {
    return this.field({ method: "GET", path: this.#path("overrides") }, "overrides", options);
  }

  /** Puts a limit in force for a time. For admins. */
  async addOverride(override: t.NewOverride, options?: CallOptions): Promise<t.TemporaryOverride> {
    return this.field({ method: "POST", path: this.#path("overrides"), body: override }, "override", options);
  }

  /** Ends an override before its time. For admins. */
  async endOverride(id: string, options?: CallOptions): Promise<t.QuotaUpdate> {
    return this.#update({ method: "DELETE", path: this.#path("overrides", id) }, options);
  }

  /** Requests for more, the newest first. */
  requests(filter: t.RequestFilter = {}, options?: CallOptions): AsyncGenerator<t.IncreaseRequest, void, undefined> {
    return this.pages(this.#path("requests"), { ...filter }, "requests", options);
  }

  /** Asks for more. */
  async makeRequest(request: t.NewRequest, options?: CallOptions): Promise<t.IncreaseRequest> {
    return this.field({ method: "POST", path: this.#path("requests"), body: request }, "request", options);
  }

  /** Raises the limit by what was asked for, for good or until `expiresAt`. For admins. */
  async approveRequest(
    id: string,
    decision: { readonly note?: string; readonly expiresAt?: t.Time } = {},
    options?: CallOptions,
  ): Promise<t.IncreaseRequest> {
    return this.field({ method: "POST", path: this.#path("requests", id, "approve"), body: decision }, "request", options);
  }

  /** For admins. */
  async denyRequest(id: string, decision: { readonly note?: string } = {}, options?: CallOptions): Promise<t.IncreaseRequest> {
    return this.field({ method: "POST", path: this.#path("requests", id, "deny"), body: decision }, "request", options);
  }

  /** For who made it, and for admins. */
  async withdrawRequest(id: string, options?: CallOptions): Promise<t.IncreaseRequest> {
    return this.field({ method: "POST", path: this.#path("requests", id, "withdraw") }, "request", options);
  }

  /** All changes, the newest first. For admins. */
  audit(filter: t.AuditFilter = {}, options?: CallOptions): AsyncGenerator<t.AuditEntry, void, undefined> {
    return this.pages(this.#path("audit"), { ...filter }, "entries", options);
  }

  /** Usage over time, and when limits are expected to be reached. */
  async analytics(query: t.AnalyticsQuery = {}, options?: CallOptions): Promise<t.Analytics> {
    const call: Call = { method: "GET", path: this.#path("analytics"), query: { ...query } };
    return this.whole<t.Analytics>(call, ["workspaceId", "startDate", "endDate", "granularity", "timeZone", "trends", "forecast"], options);
  }

  /** The report of a period. */
  async report(query: t.ReportQuery = {}, options?: CallOptions): Promise<t.Report> {
    const call: Call = { method: "GET", path: this.#path("report"), query: { ...query, format: "json" } };
    return this.whole<t.Report>(call, ["period", "start", "end", "timeZone", "rows"], options);
  }

  /** The same as CSV. */
  async reportCsv(query: t.ReportQuery = {}, options?: CallOptions): Promise<string> {
    return this.transport.text(csv(this.#path("report"), query), options);
  }

  /** The e-mail addresses of the workspace's admins. For admins. */
  async contacts(options?: CallOptions): Promise<readonly string[]> {
    return this.field({ method: "GET", path: this.#path("contacts") }, "emails", options);
  }

  /** For admins. */
  async setContacts(emails: readonly string[], options?: CallOptions): Promise<readonly string[]> {
    return this.field({ method: "PUT", path: this.#path("contacts"), body: { emails } }, "emails", options);
  }
}

/** Limits that many workspaces share. To change them is for admins of all workspaces. */
export class Plans extends Part {
  async #one(call: Call, options?: ChangeOptions): Promise<t.Plan & t.Versioned> {
    const { body, etag } = await this.transport.json(call, options);
    return { ...(checked(["plan"], body)["plan"] as t.Plan), etag };
  }

  async list(options?: CallOptions): Promise<readonly t.Plan[]> {
    return this.field({ method: "GET", path: ["plans"] }, "plans", options);
  }

  async get(name: string, options?: CallOptions): Promise<t.Plan & t.Versioned> {
    return this.#one({ method: "GET", path: ["plans", name] }, options);
  }

  /** Makes the plan, or changes it: it then has these limits, and no others. */
  async put(name: string, limits: t.Limits, options?: ChangeOptions): Promise<t.Plan & t.Versioned> {
    return this.#one({ method: "PUT", path: ["plans", name], body: { limits } }, options);
  }

  async delete(name: string, options?: CallOptions): Promise<void> {
    await this.whole({ method: "DELETE", path: ["plans", name] }, [], options);
  }
}

/** Endpoints that are told when limits come near. For admins of all workspaces. */
export class Webhooks extends Part {
  #path(...rest: string[]): string[] {
    return ["system", "webhooks", ...rest];
  }

  async list(options?: CallOptions): Promise<readonly t.Webhook[]> {
    return this.field({ method: "GET", path: this.#path() }, "webhooks", options);
  }

  async add(webhook: t.NewWebhook, options?: CallOptions): Promise<t.WebhookWithSecret> {
    return this.field({ method: "POST", path: this.#path(), body: webhook }, "webhook", options);
  }

  async get(id: string, options?: CallOptions): Promise<t.Webhook> {
    return this.field({ method: "GET", path: this.#path(id) }, "webhook", options);
  }

  async change(id: string, change: t.WebhookChange, options?: CallOptions): Promise<t.Webhook> {
    return this.field({ method: "PUT", path: this.#path(id), body: change }, "webhook", options);
  }

  async delete(id: string, options?: CallOptions): Promise<void> {
    await this.whole({ method: "DELETE", path: this.#path(id) }, [], options);
  }

  /** A new secret; the one before signs for a day more. */
  async rotateSecret(id: string, secret?: string, options?: CallOptions): Promise<t.WebhookWithSecret> {
    return this.field({ method: "POST", path: this.#path(id, "secret"), body: { secret } }, "webhook", options);
  }

  /** Sends the endpoint an event `quota.test`; answers its id. */
  async test(id: string, options?: CallOptions): Promise<string> {
    return this.field({ method: "POST", path: this.#path(id, "test") }, "notice", options);
  }

  /** What became of its notices, the newest first. */
  deliveries(id: string, filter: t.DeliveryFilter = {}, options?: CallOptions): AsyncGenerator<t.Delivery, void, undefined> {
    return this.pages(this.#path(id, "deliveries"), { ...filter }, "deliveries", options);
  }

  /** Sends a notice once more. */
  async replay(id: string, delivery: string, options?: CallOptions): Promise<void> {
    await this.whole({ method: "POST", path: this.#path(id, "deliveries", delivery, "replay") }, [], options);
  }
}

/** What concerns all workspaces. For admins of all, but for `health` and `enforcement`. */
export class System extends Part {
  /** @throws Unavailable where the store of the quota doesn't answer. */
  async health(options?: CallOptions): Promise<void> {
    await this.whole({ method: "GET", path: ["system", "health"] }, [], options);
  }

  /** How the set-up stands: its tables, and the processes that enforce limits. */
  async status(options?: CallOptions): Promise<t.SystemStatus> {
    const call: Call = { method: "GET", path: ["system", "quota-status"] };
    return this.whole<t.SystemStatus>(call, ["store", "ledger", "promise", "replicas"], options);
  }

  async #enforcement(call: Call, options?: CallOptions): Promise<t.Enforcement> {
    const answer = await this.whole<Partial<t.Enforcement>>(call, ["mode", "source", "promise"], options);
    return { types: {}, ...answer } as t.Enforcement;
  }

  async enforcement(options?: CallOptions): Promise<t.Enforcement> {
    return this.#enforcement({ method: "GET", path: ["system", "config", "quota-enforcement"] }, options);
  }

  async setEnforcement(change: t.EnforcementChange, options?: CallOptions): Promise<t.Enforcement> {
    return this.#enforcement({ method: "PUT", path: ["system", "config", "quota-enforcement"], body: change }, options);
  }

  /** Sets limits of many workspaces, all or none. */
  async setLimits(workspaces: readonly string[], limits: t.Limits, options?: CallOptions & { readonly reason?: string }): Promise<number> {
    const body = { workspaces, limits, reason: options?.reason };
    return this.field({ method: "PUT", path: ["system", "quotas"], body }, "updated", options);
  }

  /** Proposes limits by what workspaces have, or sets them: some thousands with each call, until `summary.done`. */
  async import(importOptions: t.ImportOptions = {}, options?: CallOptions): Promise<t.Import> {
    const call: Call = { method: "POST", path: ["system", "quota-import"], body: importOptions };
    return this.whole<t.Import>(call, ["summary", "proposals"], options);
  }

  /** Whom `enforce` would refuse, with the `worst` few of each type. */
  async readiness(worst?: number, options?: CallOptions): Promise<t.Readiness> {
    const call: Call = { method: "GET", path: ["system", "quota-readiness"], query: { limit: worst } };
    return this.whole<t.Readiness>(call, ["workspaces", "wouldRefuse", "types"], options);
  }

  async #shadow(call: Call, options?: CallOptions): Promise<t.Shadow> {
    return this.whole<t.Shadow>(call, ["since", "evaluated", "wouldRefuse", "workspaces"], options);
  }

  /** What the limits that are tried out would have refused, in the process that answers. */
  async shadow(workspaces?: number, options?: CallOptions): Promise<t.Shadow> {
    return this.#shadow({ method: "GET", path: ["system", "quota-shadow"], query: { limit: workspaces } }, options);
  }

  /** Tries other limits out, for some workspaces or for all. */
  async startShadow(limits: t.Limits, workspaces?: readonly string[], options?: CallOptions): Promise<t.Shadow> {
    return this.#shadow({ method: "PUT", path: ["system", "quota-shadow"], body: { limits, workspaces } }, options);
  }

  async stopShadow(options?: CallOptions): Promise<t.Shadow> {
    return this.#shadow({ method: "DELETE", path: ["system", "quota-shadow"] }, options);
  }

  /** Requests for more of all workspaces, the newest first. */
  requests(filter: t.RequestFilter = {}, options?: CallOptions): AsyncGenerator<t.IncreaseRequest, void, undefined> {
    return this.pages(["system", "quota-requests"], { ...filter }, "requests", options);
  }

  /** All changes, the newest first. */
  audit(filter: t.SystemAuditFilter = {}, options?: CallOptions): AsyncGenerator<t.AuditEntry, void, undefined> {
    return this.pages(["system", "quota-audit"], { ...filter }, "entries", options);
  }

  /** The report on all workspaces as CSV, in pieces, of which each has to come within the time-out. */
  reportCsv(query: t.ReportQuery = {}, options?: CallOptions): AsyncGenerator<Uint8Array, void, undefined> {
    return this.transport.stream(csv(["system", "quota-report"], query), options);
  }
}

/** The API of a real quickstart. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import {
  ApiError,
  errorFrom,
  Forbidden,
  InvalidRequest,
  NotFound,
  PreconditionFailed,
  QuotaClient,
  QuotaExceeded,
  Unauthenticated,
  UnexpectedAnswer,
  Unreachable,
} from "tower-quota-client";
import { ACME, ADMIN, caught, collect, Quickstart } from "./quickstart.js";

const MOST = 9223372036854775807n;

describe("the API", () => {
  let quickstart: Quickstart;
  let admin: QuotaClient;

  before(async () => {
    quickstart = await Quickstart.start();
    admin = quickstart.client(ADMIN);
  });
  after(() => quickstart.stop());

  test("a status has limits, usage and percentages", async () => {
    assert.equal((await quickstart.create("status", "one")).status, 201);
    const { quota, usage, percentages, etag } = await admin.workspace("status").status();
    assert.equal(quota.workspaceId, "status");
    assert.equal(quota.limits["maxSegments"], 50);
    assert.equal(quota.limits["maxCustomMetrics"], 50);
    assert.deepEqual(Object.keys(quota).sort(), ["createdAt", "id", "limits", "updatedAt", "workspaceId"]);
    assert.equal(usage["segments"], 1);
    assert.equal(percentages["segments"], 2);
    assert.match(etag, /^"\d+"$/);
  });

  test("limits are set, taken back and explained", async () => {
    const workspace = admin.workspace("limits");
    const update = await workspace.setLimits({ maxSegments: 7, maxUsers: null }, { reason: "they pay" });
    assert.deepEqual([update.quota.limits["maxSegments"], update.quota.limits["maxUsers"]], [7, null]);
    assert.deepEqual(update.warnings, []);
    const { explain } = await workspace.explain();
    assert.deepEqual(explain["segments"]?.trace, [
      { source: "override", limit: 7 },
      { source: "default", limit: 50 },
    ]);
    assert.equal((await workspace.clearLimit("segments")).quota.limits["maxSegments"], 50);
    await workspace.delete();
    assert.equal((await workspace.status()).quota.limits["maxUsers"], 1000);
  });

  test("a limit below usage is warned about", async () => {
    for (const name of ["one", "two"]) {
      assert.equal((await quickstart.create("below", name)).status, 201);
    }
    const { warnings } = await admin.workspace("below").setLimits({ maxSegments: 1 });
    assert.match(warnings.join(), /maxSegments is 1, below the 2 that exist/);
  });

  test("the largest limit keeps its precision, both ways", async () => {
    const workspace = admin.workspace("large");
    const update = await workspace.setLimits({ maxSegments: MOST, maxUsers: 9007199254740993n, maxJourneys: 9007199254740991 });
    const limits = { ...update.quota.limits };
    assert.equal(limits["maxSegments"], MOST);
    assert.equal(limits["maxUsers"], 9007199254740993n);
    assert.equal(limits["maxJourneys"], 9007199254740991);
    assert.deepEqual((await workspace.status()).quota.limits, limits);
    const verdict = await workspace.validate("segments", MOST);
    assert.deepEqual([verdict.allowed, verdict.remaining], [true, MOST]);
    const [newest] = await collect(workspace.audit({ resourceType: "segments" }));
    assert.equal(newest?.new, MOST);
    await assert.rejects(workspace.setLimits({ maxSegments: MOST + 1n }), InvalidRequest);
  });

  test("numbers that are not exact are refused before they are sent", async () => {
    const workspace = admin.workspace("inexact");
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY, 2 ** 63]) {
      await assert.rejects(workspace.setLimits({ maxSegments: wrong }), TypeError);
    }
    assert.equal((await workspace.status()).quota.limits["maxSegments"], 50);
  });

  test("a version that is gone is a failed precondition", async () => {
    const workspace = admin.workspace("versions");
    const { etag } = await workspace.status();
    await workspace.setLimits({ maxSegments: 5 }, { ifMatch: etag });
    const failed = await caught(workspace.setLimits({ maxSegments: 6 }, { ifMatch: etag }), PreconditionFailed);
    assert.deepEqual([failed.status, failed.code], [412, "PRECONDITION_FAILED"]);
    assert.equal((await workspace.status()).quota.limits["maxSegments"], 5);
  });

  test("one too many is refused, with the numbers", async () => {
    const workspace = admin.workspace("full");
    await workspace.setLimits({ maxSegments: 1 });
    assert.equal((await quickstart.create("full", "one")).status, 201);
    const details = { resourceType: "segments", currentUsage: 1, limit: 1, requested: 1, remaining: 0 };
    const refused = await caught(workspace.validate("segments"), QuotaExceeded);
    assert.deepEqual({ ...refused.details }, details);
    assert.deepEqual([refused.status, refused.code, refused.retryAfter], [429, "QUOTA_EXCEEDED", undefined]);
    assert.equal(refused.message, "Segment quota exceeded");

    const response = await quickstart.create("full", "two");
    const error = await errorFrom(response);
    assert.ok(error instanceof QuotaExceeded);
    assert.deepEqual({ ...error.details }, details);

    const verdict = await workspace.validate("segments", 2, { soft: true });
    assert.deepEqual(verdict, {
      allowed: false,
      currentUsage: 1,
      limit: 1,
      remaining: 0,
      percentUsed: 100,
      wouldExceed: true,
    });
  });

  test("a refusal by a cap above names it", async () => {
    await admin.workspace("top").changeSettings({ caps: { segments: 0 } });
    await admin.workspace("child").changeSettings({ parent: "top" });
    const refused = await caught(admin.workspace("child").validate("segments"), QuotaExceeded);
    assert.equal(refused.details.cappedBy, "top");
  });

  test("rows are counted anew", async () => {
    assert.equal((await quickstart.create("recount", "one")).status, 201);
    const recount = await admin.workspace("recount").recalculate();
    assert.equal(recount.usage["segments"], 1);
    assert.ok(Array.isArray(recount.corrections));
    const told = await admin.workspace("recount").recalculate({ dryRun: true });
    assert.deepEqual([told.usage["segments"], told.corrections], [1, []]);
  });

  test("settings are changed part by part", async () => {
    const workspace = admin.workspace("settings");
    await admin.plans.put("small", { maxSegments: 3 });
    const grace = { enabled: true, percentage: 10, duration: 3600, resources: ["segments"] };
    const changed = await workspace.changeSettings({ plan: "small", modes: { users: "warn" }, grace, reason: "trial" });
    assert.deepEqual([changed.plan, changed.modes, changed.grace], ["small", { users: "warn" }, grace]);
    const cleared = await workspace.changeSettings({ plan: null }, { ifMatch: changed.etag });
    assert.deepEqual([cleared.plan, cleared.grace, cleared.graceUses], [null, grace, {}]);
    assert.deepEqual(await workspace.settings(), cleared);
    await admin.plans.delete("small");
  });

  test("plans have versions", async () => {
    const made = await admin.plans.put("pro", { maxSegments: 500, maxUsers: null });
    const changed = await admin.plans.put("pro", { maxSegments: MOST }, { ifMatch: made.etag });
    assert.deepEqual([changed.version, changed.limits], [2, { maxSegments: MOST }]);
    assert.deepEqual(await admin.plans.get("pro"), changed);
    const { etag, ...plan } = changed;
    assert.ok((await admin.plans.list()).some((listed) => listed.name === plan.name && listed.version === plan.version), etag);
    await admin.plans.delete("pro");
    await assert.rejects(admin.plans.get("pro"), NotFound);
  });

  test("overrides are for a time", async () => {
    const workspace = admin.workspace("overrides");
    const expiresAt = new Date("2100-01-01T00:00:00Z");
    const added = await workspace.addOverride({ resourceType: "segments", limit: 99, expiresAt, reason: "fair" });
    assert.deepEqual([added.limit, added.expiresAt], [99, "2100-01-01T00:00:00Z"]);
    assert.deepEqual(await workspace.overrides(), [added]);
    assert.equal((await workspace.status()).quota.limits["maxSegments"], 99);
    assert.equal((await workspace.endOverride(added.id)).quota.limits["maxSegments"], 50);
    await assert.rejects(workspace.endOverride(added.id), NotFound);
  });

  test("requests are made, decided and withdrawn", async () => {
    const member = quickstart.client(ACME).workspace("acme");
    const workspace = admin.workspace("acme");
    const ask = (amount: number) => member.makeRequest({ resourceType: "journeys", amount, reason: "growth" });
    const [first, second, third] = [await ask(5), await ask(6), await ask(7)];
    assert.equal((await workspace.approveRequest(first.id, { note: "fine" })).status, "approved");
    assert.equal((await workspace.denyRequest(second.id)).status, "denied");
    assert.equal((await member.withdrawRequest(third.id)).status, "withdrawn");
    assert.equal((await workspace.status()).quota.limits["maxJourneys"], 25);
    const all = await collect(member.requests());
    assert.deepEqual(all.map(({ id }) => id), [third.id, second.id, first.id]);
    assert.deepEqual((await collect(admin.system.requests({ status: "approved" }))).map(({ note }) => note), ["fine"]);
    await assert.rejects(workspace.denyRequest(first.id), PreconditionFailed);
    await assert.rejects(member.approveRequest(second.id), Forbidden);
  });

  test("the audit log is read page by page", async () => {
    const workspaces = Array.from({ length: 510 }, (_, n) => `paged-${n}`);
    assert.equal(await admin.system.setLimits(workspaces, { maxSubscriptionGroups: 1 }), workspaces.length);
    const entries = await collect(admin.system.audit({ resourceType: "subscriptionGroups" }));
    assert.deepEqual(new Set(entries.map((entry) => entry.workspaceId)), new Set(workspaces));
    assert.equal(entries.length, workspaces.length);
    assert.ok(entries.every((entry, n) => n === 0 || entry.seq < (entries[n - 1]?.seq ?? 0)));
    // Who has seen enough stops: no page more is read.
    for await (const entry of admin.system.audit({ workspaceId: "paged-7", since: new Date(0) })) {
      assert.deepEqual([entry.action, entry.actor, entry.workspaceId, entry.new], ["limit_set", "token 1", "paged-7", 1]);
      break;
    }
  });

  test("what concerns all workspaces", async () => {
    const { system } = admin;
    await system.health();
    assert.equal(await system.setLimits(["bulk-1", "bulk-2"], { maxSegments: 4 }, { reason: "all" }), 2);
    assert.equal((await admin.workspace("bulk-2").status()).quota.limits["maxSegments"], 4);

    assert.equal((await quickstart.create("bulk-1", "one")).status, 201);
    const { summary, proposals } = await system.import({ percent: 200, floor: 3n });
    assert.equal(summary.done, true);
    const proposal = proposals.find((one) => one.workspaceId === "bulk-1" && one.resourceType === "segments");
    assert.deepEqual([proposal?.usage, proposal?.existing, proposal?.proposed, proposal?.taken], [1, 4, 3, false]);

    const readiness = await system.readiness(1);
    assert.ok(readiness.workspaces > 0 && readiness.types["segments"] !== undefined);

    await assert.rejects(system.shadow(), NotFound);
    const shadow = await system.startShadow({ maxSegments: 1 }, ["bulk-1"]);
    assert.deepEqual([shadow.evaluated, shadow.workspaces], [0, []]);
    assert.equal((await quickstart.create("bulk-1", "two")).status, 201);
    assert.equal((await system.shadow(5)).wouldRefuse, 1);
    assert.equal((await system.stopShadow()).workspaces[0]?.limit, 1);
  });

  test("the set-up tells how it stands", async () => {
    const status = await admin.system.status();
    assert.deepEqual([status.store.kind, status.ledger, status.promise], ["sqlite", "process", "exact"]);
    assert.equal(status.store.schema?.applied, status.store.schema?.known);
    const [replica, ...others] = status.replicas;
    assert.deepEqual([others, replica?.this, replica?.id], [[], true, null]);
    assert.deepEqual(replica?.config?.types["segments"], { limitField: "maxSegments", defaultLimit: 50 });
  });

  test("modes are changed at run time", async () => {
    const { system } = admin;
    assert.deepEqual(await system.enforcement(), { mode: "enforce", source: "default", promise: "exact", types: {} });
    const changed = await system.setEnforcement({ mode: "warn", types: { users: "strict" } });
    assert.deepEqual([changed.mode, changed.source, changed.types], ["warn", "runtime", { users: "strict" }]);
    const restored = await system.setEnforcement({ mode: "enforce", types: { users: null } });
    assert.deepEqual([restored.mode, restored.types], ["enforce", {}]);
  });

  test("contacts", async () => {
    const workspace = admin.workspace("contacts");
    assert.deepEqual(await workspace.setContacts(["ann@example.com"]), ["ann@example.com"]);
    assert.deepEqual(await workspace.contacts(), ["ann@example.com"]);
  });

  test("what is refused is told by class and code", async () => {
    const workspace = admin.workspace("refused");
    const member = quickstart.client(ACME);
    const cases: [() => Promise<unknown>, new (...args: never[]) => ApiError, string, RegExp][] = [
      [() => quickstart.client("nobody").workspace("acme").status(), Unauthenticated, "UNAUTHENTICATED", /./],
      [() => member.workspace("globex").status(), Forbidden, "INSUFFICIENT_PERMISSIONS", /not open/],
      [() => member.workspace("acme").setLimits({ maxSegments: 1 }), Forbidden, "INSUFFICIENT_PERMISSIONS", /admin/],
      [() => workspace.setLimits({ maxCats: 1 }), InvalidRequest, "INVALID_RESOURCE_TYPE", /maxSegments/],
      [() => workspace.setLimits({ maxSegments: -1 }), InvalidRequest, "INVALID_REQUEST", /null for unlimited/],
      [() => workspace.setLimits({ workspaceId: "other" as never }), InvalidRequest, "WORKSPACE_MISMATCH", /./],
      [() => workspace.validate("segments", 0), InvalidRequest, "INVALID_REQUEST", /increment/],
      [() => workspace.setTally({ segments: 1 }), InvalidRequest, "INVALID_REQUEST", /not counted by the ledger alone/],
      [() => workspace.setTally({ cats: 1 }), InvalidRequest, "INVALID_RESOURCE_TYPE", /segments/],
      [() => workspace.setLimits({}, { reason: "x".repeat(70_000) }), InvalidRequest, "PAYLOAD_TOO_LARGE", /./],
      [() => workspace.endOverride("no-id"), NotFound, "NOT_FOUND", /./],
      [() => collect(workspace.audit({ since: "yesterday" })), InvalidRequest, "INVALID_REQUEST", /since/],
    ];
    for (const [call, kind, code, message] of cases) {
      const error = await caught(call(), kind);
      assert.equal(error.code, code);
      assert.match(error.message, message);
    }
  });

  test("there is a method for every operation of the server", async () => {
    const response = await fetch(`${quickstart.address}/api/openapi.json`);
    const document = (await response.json()) as { paths: Record<string, Record<string, { operationId: string }>> };
    const served = Object.values(document.paths).flatMap((path) => Object.values(path).map(({ operationId }) => operationId));
    const methods = operations(admin);
    assert.deepEqual(served.sort(), [...Object.keys(methods), "getDocument", "getDocs"].sort());
    assert.ok(Object.values(methods).every((method) => typeof method === "function"));
  });

  test("ids go into the path as they are", async () => {
    for (const id of ["a/b?c#d", "../acme", "ünï 100%", "%2e%2e"]) {
      assert.equal((await admin.workspace(id).status()).quota.workspaceId, id);
    }
    for (const id of ["", ".", ".."]) {
      await assert.rejects(admin.workspace(id).status(), TypeError);
    }
  });

  test("where the API is not, is told", async () => {
    const elsewhere = new QuotaClient({ baseUrl: `${quickstart.address}/elsewhere`, token: ADMIN });
    const error = await caught(elsewhere.workspace("acme").status(), UnexpectedAnswer);
    assert.equal(error.status, 404);
    assert.match(error.message, /baseUrl/);
  });
});

/** By the names that the server's description has for them. */
function operations(client: QuotaClient): Record<string, unknown> {
  const { plans, webhooks, system } = client;
  const workspace = client.workspace("acme");
  return {
    readQuota: workspace.status,
    updateQuota: workspace.setLimits,
    clearLimit: workspace.clearLimit,
    deleteQuota: workspace.delete,
    validate: workspace.validate,
    recalculate: workspace.recalculate,
    setTally: workspace.setTally,
    cleanUp: workspace.cleanup,
    readSettings: workspace.settings,
    updateSettings: workspace.changeSettings,
    listOverrides: workspace.overrides,
    addOverride: workspace.addOverride,
    endOverride: workspace.endOverride,
    listRequests: workspace.requests,
    makeRequest: workspace.makeRequest,
    approveRequest: workspace.approveRequest,
    denyRequest: workspace.denyRequest,
    withdrawRequest: workspace.withdrawRequest,
    readAudit: workspace.audit,
    analytics: workspace.analytics,
    report: workspace.report,
    readContacts: workspace.contacts,
    setContacts: workspace.setContacts,
    listPlans: plans.list,
    readPlan: plans.get,
    putPlan: plans.put,
    deletePlan: plans.delete,
    listWebhooks: webhooks.list,
    addWebhook: webhooks.add,
    readWebhook: webhooks.get,
    changeWebhook: webhooks.change,
    removeWebhook: webhooks.delete,
    rotateWebhookSecret: webhooks.rotateSecret,
    testWebhook: webhooks.test,
    listDeliveries: webhooks.deliveries,
    replayDelivery: webhooks.replay,
    health: system.health,
    readStatus: system.status,
    readEnforcement: system.enforcement,
    updateEnforcement: system.setEnforcement,
    setQuotas: system.setLimits,
    importLimits: system.import,
    readiness: system.readiness,
    readShadow: system.shadow,
    startShadow: system.startShadow,
    stopShadow: system.stopShadow,
    listAllRequests: system.requests,
    readWholeAudit: system.audit,
    systemReport: system.reportCsv,
  };
}

test("a server that is gone is unreachable", async () => {
  const quickstart = await Quickstart.start();
  const client = new QuotaClient({ baseUrl: `${quickstart.address}/api`, token: ADMIN, retries: 1 });
  await client.system.health();
  await quickstart.stop();
  const error = await caught(client.system.health(), Unreachable);
  assert.match(error.message, /^no answer from http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED/);
});

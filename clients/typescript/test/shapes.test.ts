/** What the quickstart can't answer, since it has no deliveries, cleanup and history: the calls, and what is made of the answers. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { json, peer, text } from "./peer.js";
import { collect } from "./quickstart.js";

const WEBHOOK = {
  id: "01900000-0000-7000-8000-000000000001",
  workspaceId: null,
  url: "https://example.com/hook",
  events: ["quota.warning"] as const,
  description: "",
  status: "active",
  failures: 0,
  pausedUntil: null,
  createdAt: "2024-01-30T10:00:00Z",
  updatedAt: "2024-01-30T10:00:00Z",
};

test("webhooks", async (t) => {
  const delivery = { id: "d", notice: "n", status: "dead", attempts: 1, nextAt: null, log: [], body: { event: "quota.test" } };
  const server = await peer(
    t,
    json({ webhook: { ...WEBHOOK, secret: "whsec_1" } }, 201),
    json({ webhooks: [WEBHOOK] }),
    json({ webhook: WEBHOOK }),
    json({ webhook: { ...WEBHOOK, status: "disabled" } }),
    json({ webhook: { ...WEBHOOK, secret: "whsec_2" } }),
    json({ webhook: { ...WEBHOOK, secret: "whsec_3" } }),
    json({ notice: "n" }, 202),
    json({ deliveries: [delivery], next: "d" }),
    json({ deliveries: [], next: null }),
    json({ replayed: "d" }, 202),
    json({ deleted: WEBHOOK.id }),
  );
  const { webhooks } = server.client();
  const { id } = WEBHOOK;
  assert.equal((await webhooks.add({ url: WEBHOOK.url, events: ["quota.warning"] })).secret, "whsec_1");
  assert.deepEqual(await webhooks.list(), [WEBHOOK]);
  assert.deepEqual(await webhooks.get(id), WEBHOOK);
  assert.equal((await webhooks.change(id, { active: false })).status, "disabled");
  assert.equal((await webhooks.rotateSecret(id)).secret, "whsec_2");
  assert.equal((await webhooks.rotateSecret(id, "whsec_3")).secret, "whsec_3");
  assert.equal(await webhooks.test(id), "n");
  assert.deepEqual(await collect(webhooks.deliveries(id, { status: "dead" })), [delivery]);
  await webhooks.replay(id, "d");
  await webhooks.delete(id);
  const path = `/api/system/webhooks/${id}`;
  assert.deepEqual(
    server.seen.map((request) => [request.method, request.path, request.body]),
    [
      ["POST", "/api/system/webhooks", `{"url":"${WEBHOOK.url}","events":["quota.warning"]}`],
      ["GET", "/api/system/webhooks", ""],
      ["GET", path, ""],
      ["PUT", path, '{"active":false}'],
      ["POST", `${path}/secret`, "{}"],
      ["POST", `${path}/secret`, '{"secret":"whsec_3"}'],
      ["POST", `${path}/test`, ""],
      ["GET", `${path}/deliveries?status=dead&limit=500`, ""],
      ["GET", `${path}/deliveries?status=dead&limit=500&cursor=d`, ""],
      ["POST", `${path}/deliveries/d/replay`, ""],
      ["DELETE", path, ""],
    ],
  );
});

test("cleanup", async (t) => {
  const report = { resourceType: "segments", policy: "archive", dryRun: true, above: 1, removed: 0, rows: ["s-1"] };
  const server = await peer(t, json(report));
  assert.deepEqual(await server.client().workspace("acme").cleanup({ resourceType: "segments", dryRun: true }), report);
  assert.equal(server.seen[0]?.body, '{"resourceType":"segments","dryRun":true}');
});

test("a recount that changes nothing", async (t) => {
  const corrections = [{ resourceType: "segments", cached: 47, actual: 45, drift: -2 }];
  const recount = { workspaceId: "acme", usage: { segments: 45 }, corrections, recalculatedAt: "2024-01-30T10:00:00Z" };
  const server = await peer(t, json(recount), json(recount));
  const workspace = server.client().workspace("acme");
  assert.deepEqual(await workspace.recalculate({ dryRun: true }), recount);
  assert.deepEqual(await workspace.recalculate({ dryRun: false }), recount);
  const path = "/api/workspaces/acme/quota/recalculate";
  assert.deepEqual(server.seen.map((request) => request.path), [`${path}?dryRun=true`, path]);
});

test("analytics and reports", async (t) => {
  const analytics = {
    trends: [{ date: "2024-01-01", usage: { segments: 30, journeys: 10, users: 500 }, refusals: { segments: 2 } }],
    forecast: { segments: { projectedDate: "2024-02-15", daysUntilLimit: 45, growthRate: 0.02 } },
  };
  const csv = "workspaceId,period\r\nacme,monthly\r\n";
  const report = { period: "monthly", start: "2024-01-01", end: "2024-01-31", timeZone: "UTC", rows: [{ workspaceId: "acme" }] };
  const server = await peer(t, json(analytics), text(csv, "text/csv; charset=utf-8"), json(report));
  const workspace = server.client().workspace("acme");
  const query = { startDate: "2024-01-01", endDate: "2024-01-31", granularity: "day" } as const;
  assert.deepEqual(await workspace.analytics(query), analytics);
  assert.equal(await workspace.reportCsv({ period: "monthly" }), csv);
  assert.deepEqual(await workspace.report({ date: "2024-01-05" }), report);
  assert.deepEqual(
    server.seen.map(({ path }) => path),
    [
      "/api/workspaces/acme/quota/analytics?startDate=2024-01-01&endDate=2024-01-31&granularity=day",
      "/api/workspaces/acme/quota/report?period=monthly&format=csv",
      "/api/workspaces/acme/quota/report?date=2024-01-05&format=json",
    ],
  );
});

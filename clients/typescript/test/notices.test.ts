/** Webhooks of a real quickstart, which sends to a real endpoint; and what is told of usage that there really is. */

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, before, describe, test } from "node:test";

import { NotFound, type QuotaClient } from "tower-quota-client";
import { peer, type Seen, text } from "./peer.js";
import { ADMIN, caught, collect, Quickstart, until } from "./quickstart.js";

const GONE = text("", "text/plain", 410);
const TAKEN = text("", "text/plain", 204);

/** What was sent, if the secret has signed it as Standard Webhooks have it. */
function verified({ headers, body }: Seen, secret: string): Record<string, unknown> {
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const signed = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`;
  const signature = createHmac("sha256", key).update(signed).digest("base64");
  assert.ok(String(headers["webhook-signature"]).split(" ").includes(`v1,${signature}`), "somebody else has signed it");
  assert.ok(Math.abs(Date.now() / 1000 - Number(headers["webhook-timestamp"])) < 300, "it was signed at another time");
  return JSON.parse(body) as Record<string, unknown>;
}

describe("what is told", () => {
  let quickstart: Quickstart;
  let admin: QuotaClient;

  before(async () => {
    quickstart = await Quickstart.start();
    admin = quickstart.client(ADMIN);
  });
  after(() => quickstart.stop());

  test("an endpoint is made, read, changed and deleted", async () => {
    const { webhooks } = admin;
    const url = "https://example.com/hook";
    const { secret, ...made } = await webhooks.add({ url, workspaceId: "endpoints", events: ["quota.warning"], description: "ours" });
    assert.match(secret, /^whsec_/);
    assert.deepEqual([made.url, made.workspaceId, made.events, made.status], [url, "endpoints", ["quota.warning"], "active"]);
    assert.deepEqual(await webhooks.get(made.id), made);
    assert.deepEqual((await webhooks.list()).filter(({ id }) => id === made.id), [made]);
    const changed = await webhooks.change(made.id, { active: false, description: "" });
    assert.deepEqual([changed.status, changed.description, changed.events], ["disabled", "", ["quota.warning"]]);
    assert.notEqual((await webhooks.rotateSecret(made.id)).secret, secret);
    const given = `whsec_${Buffer.from("thirty-two bytes for a signature").toString("base64")}`;
    assert.equal((await webhooks.rotateSecret(made.id, given)).secret, given);
    await webhooks.delete(made.id);
    await caught(webhooks.get(made.id), NotFound);
    await caught(webhooks.test(made.id), NotFound);
    await caught(collect(webhooks.deliveries(made.id)), NotFound);
  });

  test("a test arrives signed, and what was given up is replayed", async (t) => {
    const { webhooks } = admin;
    const endpoint = await peer(t, GONE, TAKEN);
    const { id, secret } = await webhooks.add({ url: `${endpoint.address}/hook`, workspaceId: "tested" });
    const delivery = (status: "dead" | "delivered") =>
      until(`it is ${status}`, async () => (await collect(webhooks.deliveries(id, { status })))[0]);

    const notice = await webhooks.test(id);
    const dead = await delivery("dead");
    assert.deepEqual([dead.notice, dead.attempts, dead.nextAt, dead.log.length], [notice, 1, null, 1]);
    assert.deepEqual([dead.log[0]?.ok, dead.log[0]?.result], [false, "410"]);
    assert.equal((await webhooks.get(id)).status, "disabled");

    assert.equal((await webhooks.change(id, { active: true })).status, "active");
    await webhooks.replay(id, dead.id);
    const delivered = await delivery("delivered");
    assert.deepEqual([delivered.id, delivered.notice, delivered.log.at(-1)?.ok], [dead.id, notice, true]);
    assert.deepEqual(await collect(webhooks.deliveries(id)), [delivered]);
    assert.deepEqual(
      endpoint.seen.map(({ method, path, headers }) => [method, path, headers["webhook-id"]]),
      Array(2).fill(["POST", "/hook", notice]),
    );
    for (const sent of endpoint.seen) {
      assert.deepEqual([verified(sent, secret)["event"], verified(sent, secret)["workspace_id"]], ["quota.test", "tested"]);
      assert.throws(() => verified({ ...sent, body: `${sent.body} ` }, secret));
    }
    await webhooks.delete(id);
  });

  test("a limit that is reached is told", async (t) => {
    const endpoint = await peer(t, TAKEN);
    const { secret } = await admin.webhooks.add({ url: endpoint.address, workspaceId: "reached", events: ["quota.exceeded"] });
    await admin.workspace("reached").setLimits({ maxSegments: 1 });
    assert.equal((await quickstart.create("reached", "one")).status, 201);
    const body = verified(await until("it is told", () => endpoint.seen[0]), secret);
    assert.deepEqual([body["event"], body["workspace_id"]], ["quota.exceeded", "reached"]);
    const data = { resource_type: "segments", current_usage: 1, limit: 1, percent_used: 100, threshold: "exceeded" };
    assert.deepEqual(body["data"], data);
  });

  test("what a workspace has of its own goes with it", async (t) => {
    const { webhooks } = admin;
    const workspace = admin.workspace("leaving");
    const endpoint = await peer(t, TAKEN);
    const own = await webhooks.add({ url: endpoint.address, workspaceId: "leaving" });
    const ofAll = await webhooks.add({ url: endpoint.address, active: false });
    await workspace.setContacts(["ann@example.com"]);
    await workspace.setLimits({ maxSegments: 7 });
    assert.equal((await quickstart.create("leaving", "one")).status, 201);
    await workspace.delete();
    await caught(webhooks.get(own.id), NotFound);
    assert.equal((await webhooks.get(ofAll.id)).id, ofAll.id);
    assert.deepEqual(await workspace.contacts(), []);
    const { quota, usage } = await workspace.status();
    assert.deepEqual([quota.limits["maxSegments"], usage["segments"]], [50, 1]);
    const actions = (await collect(workspace.audit())).map(({ action }) => action);
    assert.ok(actions.includes("workspace_deleted") && actions.includes("limit_set"), actions.join());
  });

  test("rows above a limit are told, and go when they are to", async () => {
    const workspace = admin.workspace("cleaned");
    const created = [];
    for (const name of ["one", "two", "three"]) {
      const response = await quickstart.create("cleaned", name);
      assert.equal(response.status, 201);
      created.push(((await response.json()) as { id: string }).id);
    }
    await workspace.setLimits({ maxSegments: 1 });
    const newest = [created[2], created[1]];
    const told = { resourceType: "segments", policy: "archive", dryRun: true, above: 2, removed: 0, rows: newest };
    assert.deepEqual(await workspace.cleanup({ resourceType: "segments" }), told);
    assert.equal((await workspace.status()).usage["segments"], 3);
    await workspace.changeSettings({ mode: "strict" });
    const done = await workspace.cleanup({ resourceType: "segments", dryRun: false, batch: 1 });
    assert.deepEqual(done, { ...told, dryRun: false, removed: 2 });
    assert.equal((await workspace.status()).usage["segments"], 1);
  });

  test("usage over time, and a report on it", async () => {
    const workspace = admin.workspace("reported");
    const today = new Date().toISOString().slice(0, 10);
    await workspace.setLimits({ maxSegments: 2, maxUsers: null });
    for (const [name, status] of Object.entries({ one: 201, two: 201, three: 429 })) {
      assert.equal((await quickstart.create("reported", name)).status, status);
    }
    const { trends, forecast, ...asked } = await workspace.analytics({ startDate: today, granularity: "day" });
    assert.deepEqual(asked, { workspaceId: "reported", startDate: today, endDate: today, granularity: "day", timeZone: "UTC" });
    assert.deepEqual([trends.at(-1)?.usage["segments"], trends.at(-1)?.usage["users"]], [2, 0]);
    // One limit is reached, and of the other there is none.
    assert.deepEqual([forecast["segments"]?.projectedDate, forecast["segments"]?.daysUntilLimit], [today, 0]);
    assert.deepEqual([forecast["users"]?.projectedDate, forecast["users"]?.reason], [null, "noLimit"]);

    // Refusals are written down some seconds later.
    const row = await until("the refusal is in the report", async () => {
      const { rows } = await workspace.report({ date: today });
      return rows.find(({ resourceType, refusals }) => resourceType === "segments" && refusals === 1);
    });
    const told = await workspace.analytics({ startDate: today, granularity: "day" });
    assert.deepEqual(told.trends.at(-1)?.refusals, { segments: 1 });
    assert.deepEqual([row.workspaceId, row.period, row.start.slice(8)], ["reported", "monthly", "01"]);
    assert.deepEqual([row.max, row.last, row.limit, row.percent, row.graceUses, row.limitChanges], [2, 2, 2, 100, 0, 1]);
    const report = await workspace.report({ date: today, period: "daily" });
    assert.deepEqual([report.period, report.start, report.end, report.timeZone], ["daily", today, today, "UTC"]);

    const [head, ...lines] = (await workspace.reportCsv({ date: today })).trimEnd().split("\r\n");
    const columns = head?.split(",") ?? [];
    assert.deepEqual(new Set(columns), new Set(Object.keys(row)));
    const segments = lines.find((line) => line.includes(",segments,"))?.split(",");
    assert.equal(segments?.[columns.indexOf("refusals")], "1");

    const chunks = await collect(admin.system.reportCsv({ date: today }));
    const all = Buffer.concat(chunks).toString().split("\r\n");
    assert.ok(all.some((line) => line.startsWith("reported,")) && all[0] === head, all.join("\n"));
  });
});

/** What can go wrong on the way, by a real server that does it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { gzipSync } from "node:zlib";

import { ApiError, QuotaClient, QuotaError, QuotaExceeded, TimedOut, Unavailable, UnexpectedAnswer, Unreachable } from "tower-quota-client";
import { hang, json, peer, type Reply, reset, text } from "./peer.js";
import { caught, collect } from "./quickstart.js";

const OK = json({ overrides: [] });

function unavailable(headers: Record<string, string>): Reply {
  return json({ error: "QUOTA_UNAVAILABLE", message: "the quota can't be checked now; try again" }, 503, headers);
}

test("a GET is tried again when Retry-After says so", async (t) => {
  const page = text("<h1>Maintenance</h1>", "text/html", 503, { "retry-after": "0" });
  const server = await peer(t, unavailable({ "retry-after": "0" }), page, OK);
  assert.deepEqual(await server.client().workspace("acme").overrides(), []);
  assert.equal(server.seen.length, 3);
});

test("retries have an end", async (t) => {
  const server = await peer(t, unavailable({ "retry-after": "0" }));
  const error = await caught(server.client({ retries: 4 }).workspace("acme").overrides(), Unavailable);
  assert.deepEqual([error.status, error.code, error.retryAfter, server.seen.length], [503, "QUOTA_UNAVAILABLE", 0, 5]);
  await caught(server.client({ retries: 0 }).workspace("acme").overrides(), Unavailable);
  assert.equal(server.seen.length, 6);
});

test("without Retry-After, and with one that is too far away, nothing is tried again", async (t) => {
  const inAnHour = new Date(Date.now() + 3_600_000).toUTCString();
  const server = await peer(t, unavailable({}), unavailable({ "retry-after": "3600" }), unavailable({ "retry-after": inAnHour }));
  const workspace = server.client().workspace("acme");
  assert.equal((await caught(workspace.overrides(), Unavailable)).retryAfter, undefined);
  assert.equal((await caught(workspace.overrides(), Unavailable)).retryAfter, 3600);
  const { retryAfter = 0 } = await caught(workspace.overrides(), Unavailable);
  assert.ok(retryAfter > 3000 && retryAfter <= 3600, String(retryAfter));
  assert.equal(server.seen.length, 3);
});

test("a GET is tried again when the connection breaks, before the answer or in it", async (t) => {
  const half: Reply = (response) => {
    response.writeHead(200, { "content-length": "100" }).write('{"over', () => response.socket?.resetAndDestroy());
  };
  const server = await peer(t, reset, half, OK);
  assert.deepEqual(await server.client().workspace("acme").overrides(), []);
  assert.equal(server.seen.length, 3);
});

test("changes are never sent twice", async (t) => {
  for (const fault of [reset, unavailable({ "retry-after": "0" })]) {
    const server = await peer(t, fault);
    const workspace = server.client().workspace("acme");
    const calls = [
      () => workspace.validate("segments"),
      () => workspace.recalculate(),
      () => workspace.setLimits({ maxSegments: 1 }),
      () => workspace.setLimits({ maxSegments: 1 }, { ifMatch: '"7"' }),
      () => workspace.delete(),
    ];
    for (const call of calls) {
      await assert.rejects(call(), QuotaError);
    }
    assert.deepEqual(server.seen.map(({ method }) => method), ["POST", "POST", "PUT", "PUT", "DELETE"]);
    assert.equal(server.seen[3]?.headers["if-match"], '"7"');
  }
});

test("a call ends at its time-out, also within the answer", async (t) => {
  const stuck: Reply = (response) => void response.writeHead(200).write("{");
  const [silent, halfway] = [await peer(t, hang), await peer(t, stuck)];
  const calls = [
    silent.client({ timeout: 500 }).workspace("acme").status(),
    silent.client().workspace("acme").recalculate({ timeout: 500 }),
    halfway.client({ timeout: 500 }).workspace("acme").status(),
  ];
  for (const error of await Promise.all(calls.map((call) => caught(call, TimedOut)))) {
    assert.equal(error.message, "no answer within 500 ms");
  }
  assert.deepEqual([silent.seen.length, halfway.seen.length], [2, 1], "what has timed out is not tried again");
});

test("a caller's signal ends the call with its reason", async (t) => {
  const server = await peer(t, hang);
  const workspace = server.client().workspace("acme");
  const reason = new Error("enough");
  const controller = new AbortController();
  const call = workspace.status({ signal: controller.signal });
  controller.abort(reason);
  await assert.rejects(call, (error) => error === reason);
  await assert.rejects(workspace.status({ signal: AbortSignal.abort(reason) }), (error) => error === reason);
  // Also in the pause before a retry.
  const busy = await peer(t, unavailable({ "retry-after": "20" }));
  const later = new AbortController();
  const waiting = busy.client().workspace("acme").overrides({ signal: later.signal });
  while (busy.seen.length === 0) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  later.abort(reason);
  await assert.rejects(waiting, (error) => error === reason);
});

test("a proxy's page is no answer of the API", async (t) => {
  const page = `<html><h1>502   Bad Gateway</h1>${"x".repeat(5000)}</html>`;
  const server = await peer(t, text(page, "text/html", 502));
  const error = await caught(server.client().workspace("acme").status(), UnexpectedAnswer);
  assert.equal(error.status, 502);
  assert.match(error.message, /status 502, text\/html: <html><h1>502 Bad Gateway<\/h1>x+…$/);
  assert.ok(error.message.length < 350);
  assert.equal(server.seen.length, 1);
});

test("a success that is not the API's", async (t) => {
  const cases: [Reply, RegExp][] = [
    [text("<h1>Sign in</h1>", "text/html"), /no JSON object: status 200, text\/html: <h1>Sign in/],
    [text("", "application/json"), /no JSON object/],
    [json([1]), /no JSON object/],
    [text(`{"n": 9223372036854775807, "x": ${"[".repeat(100_000)}${"]".repeat(100_000)}}`, "application/json"), /no JSON object/],
    [json({ hello: "world" }), /the answer has no `overrides`/],
  ];
  for (const [reply, message] of cases) {
    const server = await peer(t, reply);
    assert.match((await caught(server.client().workspace("acme").overrides(), UnexpectedAnswer)).message, message);
  }
});

test("redirects are not followed: the token would go along", async (t) => {
  const elsewhere = await peer(t, OK);
  for (const status of [301, 302, 307, 308]) {
    const server = await peer(t, text("", "text/html", status, { location: `${elsewhere.address}/steal` }));
    const error = await caught(server.client().workspace("acme").overrides(), UnexpectedAnswer);
    assert.equal(error.status, status);
    assert.match(error.message, /redirect to .*\/steal, which is not followed/);
    assert.equal(server.seen[0]?.headers.authorization, "Bearer the-token");
  }
  assert.deepEqual(elsewhere.seen, []);
});

test("an answer without end is not read to the end", async (t) => {
  let written = 0;
  const endless: Reply = (response) => {
    response.writeHead(200, { "content-type": "application/json" });
    const more = (): void => {
      while (!response.destroyed && response.write(" ".repeat(65_536))) {
        written += 65_536;
      }
      response.once("drain", more);
    };
    more();
  };
  const server = await peer(t, endless);
  const error = await caught(server.client().workspace("acme").overrides(), UnexpectedAnswer);
  assert.match(error.message, /more than 8388608 bytes/);
  assert.ok(written < 64 * 1024 * 1024, String(written));

  const bomb = gzipSync(Buffer.alloc(20_000_000, " "));
  const compressed = await peer(t, (response) => response.writeHead(200, { "content-encoding": "gzip" }).end(bomb));
  await caught(compressed.client().workspace("acme").overrides(), UnexpectedAnswer);

  const small = await peer(t, OK);
  await caught(small.client({ maxBody: 5 }).workspace("acme").overrides(), UnexpectedAnswer);
});

test("a report on all workspaces comes in pieces, without bound", async (t) => {
  const piece = "x".repeat(65_536);
  const pieces = 200;
  const endless: Reply = (response) => {
    response.writeHead(200, { "content-type": "text/csv" });
    let left = pieces;
    const more = (): void => {
      while (left > 0) {
        left -= 1;
        if (!response.write(piece)) {
          response.once("drain", more);
          return;
        }
      }
      response.end();
    };
    more();
  };
  const server = await peer(t, unavailable({ "retry-after": "0" }), endless);
  let size = 0;
  for await (const chunk of server.client().system.reportCsv({ period: "weekly" })) {
    size += chunk.byteLength;
  }
  assert.equal(size, pieces * piece.length);
  assert.deepEqual(server.seen.map(({ path }) => path), Array(2).fill("/api/system/quota-report?period=weekly&format=csv"));
});

test("a report that breaks off, or hangs, is not taken for whole", async (t) => {
  const some = (then: Reply): Reply => (response) => void response.writeHead(200).write("workspaceId\r\n", () => then(response));
  const server = await peer(t, some(reset), some(hang), some(hang));
  const { system } = server.client();
  await caught(collect(system.reportCsv()), Unreachable);
  await caught(collect(system.reportCsv({}, { timeout: 500 })), TimedOut);
  // Who has enough stops, and the connection ends.
  for await (const _ of system.reportCsv()) {
    break;
  }
  assert.equal(server.seen.length, 3, "what has begun is not begun anew");
});

test("error bodies of all kinds", async (t) => {
  const details = { resourceType: "segments", currentUsage: 48, limit: 50, requested: 3, remaining: 1, reserved: 1 };
  const server = await peer(
    t,
    json({ error: "QUOTA_EXCEEDED", message: "Segment quota exceeded", details }, 429, { "retry-after": "1" }),
    json({ error: "QUOTA_EXCEEDED", message: "no details" }, 429),
    json({ error: "constructor", message: "of the future", details: { x: 1 } }, 409),
    json({ error: { message: "another API" } }, 400),
    json("QUOTA_EXCEEDED", 429),
  );
  const workspace = server.client().workspace("acme");
  const inFlight = await caught(workspace.validate("segments", 3), QuotaExceeded);
  assert.deepEqual([inFlight.details, inFlight.retryAfter], [details, 1]);
  const bare = await caught(workspace.validate("segments"), ApiError);
  assert.deepEqual([bare instanceof QuotaExceeded, bare.code], [false, "QUOTA_EXCEEDED"]);
  const unknown = await caught(workspace.validate("segments"), ApiError);
  assert.deepEqual([unknown.constructor, unknown.status, unknown.code, unknown.details], [ApiError, 409, "constructor", { x: 1 }]);
  await caught(workspace.validate("segments"), UnexpectedAnswer);
  await caught(workspace.validate("segments"), UnexpectedAnswer);
});

test("rows that the ledger alone counts are set", async (t) => {
  const before = { segments: 3, users: 0 };
  const rows = { segments: 45, users: 9223372036854775807n };
  const body = `{"workspaceId":"acme","before":${JSON.stringify(before)},"rows":{"segments":45,"users":${rows.users}}}`;
  const server = await peer(t, text(body, "application/json"));
  const workspace = server.client().workspace("acme");
  const done = await workspace.setTally(rows, { reason: "counted by hand" });
  assert.deepEqual([done.workspaceId, { ...done.before }, { ...done.rows }], ["acme", before, rows]);
  await workspace.setTally({ segments: 45 });
  assert.deepEqual(server.seen.map(({ method, path, body }) => [method, path, body]), [
    ["PUT", "/api/workspaces/acme/quota/tally", `{"rows":{"segments":45,"users":${rows.users}},"reason":"counted by hand"}`],
    ["PUT", "/api/workspaces/acme/quota/tally", '{"rows":{"segments":45}}'],
  ]);
});

test("pages that never end are noticed", async (t) => {
  const server = await peer(t, json({ entries: [], next: "1" }), json({ entries: [], next: "1" }), json({ entries: [], next: null }));
  await caught(collect(server.client().system.audit()), UnexpectedAnswer);
  assert.deepEqual(server.seen.map(({ path }) => path), ["/api/system/quota-audit?limit=500", "/api/system/quota-audit?limit=500&cursor=1"]);
});

test("the health check tells a store that doesn't answer from a server that has none", async (t) => {
  const server = await peer(t, json({ status: "unavailable" }, 503), text("<h1>Not found</h1>", "text/html", 404));
  const error = await caught(server.client().system.health(), Unavailable);
  assert.equal(error.message, "the store of the quota does not answer");
  await caught(server.client().system.health(), UnexpectedAnswer);
});

test("options that make no sense are refused at once", () => {
  const baseUrl = "https://example.com/api";
  for (const wrong of ["", "example.com/api", "ftp://example.com", "https://ann:secret@example.com", `${baseUrl}?x=1`, `${baseUrl}#x`]) {
    assert.throws(() => new QuotaClient({ baseUrl: wrong }), TypeError);
  }
  for (const token of ["", "two words", "line\r\nbreak", "ü"]) {
    assert.throws(() => new QuotaClient({ baseUrl, token }), (error: Error) => error instanceof TypeError && !error.message.includes("words"));
  }
  for (const wrong of [{ timeout: 0 }, { timeout: Number.NaN }, { retries: -1 }, { retries: 1.5 }, { maxBody: 0 }]) {
    assert.throws(() => new QuotaClient({ baseUrl, ...wrong }), TypeError);
  }
});

test("the token is shown nowhere", async (t) => {
  const server = await peer(t, reset);
  const client = server.client({ retries: 0 });
  const error = await caught(client.system.health(), Unreachable);
  for (const shown of [inspect(client, { depth: 10, showHidden: true }), inspect(error, { depth: 10 }), JSON.stringify(client)]) {
    assert.ok(!shown.includes("the-token"), shown);
  }
});

test("a fetch of one's own", async () => {
  const client = new QuotaClient({
    baseUrl: "https://example.com/api",
    fetch: async (input) => Response.json({ status: "ok", asked: String(input) }),
  });
  await client.system.health();
});

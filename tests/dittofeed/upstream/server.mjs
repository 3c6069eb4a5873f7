// A stand-in for Dittofeed: its routes, and how they answer, on tables of its shapes. It checks no limit, and looks
// before it writes without a lock: whatever it is asked for at the same moment, it makes.
//
// DATABASE_URL says where the tables are; they must exist. It prints where it listens, and ends with its input.

import { createHash, createHmac, randomUUID } from "node:crypto";
import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

import { Ajv } from "ajv";
import pg from "pg";

const BODY_LIMIT = 5 * 1024 * 1024;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 40 });

const query = async (text, values = []) => (await pool.query(text, values)).rows;

/** Lets others come between a look and what is done about it. */
const pause = () => sleep(Math.random() * 4);

class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const UNIQUE_VIOLATION = "23505";

/** Checks bodies as Fastify does, which makes of a value what its schema wants where it can: a list of one is that one. */
const ajv = new Ajv({ coerceTypes: "array", useDefaults: true, removeAdditional: true });

const checked = (schema, handle) => {
  const fits = ajv.compile(schema);
  return (request) => {
    if (!fits(request.body)) throw new Failure(400, ajv.errorsText(fits.errors, { dataVar: "body" }));
    return handle(request);
  };
};

const TEXT = { type: "string" };
const FLAG = { type: "boolean" };
const literal = (text) => ({ type: "string", const: text });
const oneOf = (texts) => ({ anyOf: texts.map(literal) });
const listOf = (items) => ({ type: "array", items });
const object = (required, optional = {}) => ({
  type: "object",
  properties: { ...required, ...optional },
  required: Object.keys(required),
});

/** Tables whose rows are made and changed by one route: what they have beside a name. */
const TABLES = {
  Segment: { typed: true },
  Journey: {},
  Broadcast: {},
  UserProperty: {},
  MessageTemplate: { typed: true },
  SubscriptionGroup: {},
};

const find = (table, workspace, { id, name }) =>
  id
    ? query(`SELECT * FROM "${table}" WHERE "workspaceId" = $1 AND "id" = $2`, [workspace, id])
    : query(`SELECT * FROM "${table}" WHERE "workspaceId" = $1 AND "name" = $2`, [workspace, name]);

const insert = async (table, workspace, { id = randomUUID(), name, resourceType }) => {
  const typed = resourceType ? [`, "resourceType"`, `, $4::"DBResourceType"`, [resourceType]] : ["", "", []];
  const sql = `INSERT INTO "${table}" ("id", "workspaceId", "name"${typed[0]}) VALUES ($1, $2, $3${typed[1]}) RETURNING *`;
  const [row] = await query(sql, [id, workspace, name, ...typed[2]]);
  return row;
};

const UPSERT = object({}, { id: TEXT, name: TEXT, createOnly: FLAG, resourceType: oneOf(["Declarative", "Internal"]) });

/** Makes a row, or changes the one that is there: by id where there is one, otherwise by name. */
const upsert = async (table, { body, workspace }) => {
  const { id, name, createOnly } = body;
  const resourceType = TABLES[table].typed ? body.resourceType : undefined;
  if (id !== undefined && !UUID.test(id)) throw new Failure(400, "the id is no UUID");
  if (!id && typeof name !== "string") throw new Error("a name is a string");
  const [found] = await find(table, workspace, { id, name });
  await pause();
  if (found && createOnly && table === "Segment") return found;
  if (found) {
    const set = [`"name" = coalesce($3, "name")`];
    const values = [workspace, found.id, name ?? null];
    if (resourceType) {
      set.push(`"resourceType" = $4::"DBResourceType"`);
      values.push(resourceType);
    }
    const sql = `UPDATE "${table}" SET ${set.join(", ")} WHERE "workspaceId" = $1 AND "id" = $2 RETURNING *`;
    const [changed] = await query(sql, values);
    // Deleted since it was found: then it is made anew.
    if (changed) return changed;
  }
  return insert(table, workspace, { id: id ?? found?.id, name: name ?? found?.name, resourceType });
};

const upserts = (table) => checked(UPSERT, async (request) => [200, await upsert(table, request)]);

const removes = (table, { anyWorkspace = false } = {}) => async ({ id, workspace }) => {
  if (!UUID.test(id ?? "")) return [404];
  const where = anyWorkspace ? "" : ` AND "workspaceId" = $2`;
  const values = anyWorkspace ? [id] : [id, workspace];
  const gone = await query(`DELETE FROM "${table}" WHERE "id" = $1${where} RETURNING "id"`, values);
  return [gone.length > 0 ? 204 : 404];
};

const byBody = (remove) => (request) => remove({ id: request.body.id, workspace: request.workspace });
const byQuery = (remove) => (request) => remove({ id: request.query.get("id"), workspace: request.workspace });

const addUser = async (workspace, user) => {
  const known = await query(`SELECT 1 FROM "ColumnStoreUser" WHERE "workspaceId" = $1 AND "userId" = $2`, [workspace, user]);
  if (known.length > 0) return;
  await pause();
  await query(`INSERT INTO "ColumnStoreUser" VALUES ($1, $2) ON CONFLICT DO NOTHING`, [workspace, user]);
};

/** An event is one of a user, or of somebody whose name isn't known yet. */
const eventOf = (fields) => ({ anyOf: ["userId", "anonymousId"].map((who) => object({ ...fields, [who]: TEXT })) });

/** What an event of a kind has beside that. */
const EVENTS = { identify: {}, track: {}, page: {}, screen: {}, group: { groupId: TEXT } };

/** The users that an event makes known. */
const usersOf = (event, kind) => {
  const user = event.userId ?? event.anonymousId;
  return kind === "group" ? [user, event.groupId] : [user];
};

const addUsers = async (workspace, users) => {
  for (const user of new Set(users)) await addUser(workspace, String(user));
};

const event = ([kind, fields]) =>
  checked(eventOf(fields), async ({ body, workspace }) => {
    await addUsers(workspace, usersOf(body, kind));
    return [204];
  });

const ITEMS = Object.entries(EVENTS).map(([kind, fields]) => eventOf({ type: literal(kind), ...fields }));

const batch = checked(object({ batch: listOf({ anyOf: ITEMS }) }), async ({ body, workspace }) => {
  await addUsers(workspace, body.batch.flatMap((item) => usersOf(item, item.type)));
  return [204];
});

const webhook = async ({ headers, raw, body, workspace }) => {
  const [config] = await query(`SELECT "sharedSecret" FROM "SegmentIOConfiguration" WHERE "workspaceId" = $1`, [workspace]);
  if (!config) return [503];
  const signature = createHmac("sha256", config.sharedSecret).update(raw).digest("hex");
  if (headers["x-signature"] !== signature) return [401];
  // Its bytes are stored, so that nothing is made of its values.
  await addUsers(workspace, usersOf(body, body.type));
  return [200];
};

/** Takes a file, answers, and imports it then. */
const upload = async ({ headers, raw, workspace }) => {
  const boundary = /^multipart\/form-data;.*boundary="?([^";]+)/i.exec(headers["content-type"] ?? "")?.[1];
  if (!boundary) throw new Failure(400, "missing file");
  const part = raw.toString("utf8").split(`--${boundary}`).find((part) => /filename=/i.test(part));
  if (!part) throw new Failure(400, "missing file");
  const [columns, ...lines] = part.slice(part.indexOf("\r\n\r\n") + 4).trimEnd().split(/\r\n|\n|\r/);
  const column = columns.split(",").indexOf("id");
  if (column < 0) throw new Failure(400, 'csv must have "id" header');
  const users = lines.map((line) => line.split(",")[column]).filter(Boolean);
  sleep(100 + Math.random() * 200)
    .then(() => addUsers(workspace, users))
    .catch((error) => console.error(error));
  return [200];
};

const execute = checked(object({ broadcastName: TEXT }), async ({ body, workspace }) => {
  const broadcast = await insert("Broadcast", workspace, { name: body.broadcastName });
  for (const table of ["Segment", "MessageTemplate", "Journey"]) {
    await insert(table, workspace, { name: `Broadcast - ${broadcast.id}`, resourceType: "Internal" });
  }
  return [200, { broadcastId: broadcast.id }];
});

const archive = checked(object({ broadcastId: TEXT }, { archived: FLAG }), async ({ body, workspace }) => {
  const sql = `UPDATE "Broadcast" SET "archived" = $3 WHERE "workspaceId" = $1 AND "id" = $2 RETURNING *`;
  const [row] = await query(sql, [workspace, body.broadcastId, body.archived ?? true]);
  return row ? [200, { message: "Broadcast archived" }] : [404, { message: "Broadcast not found" }];
});

const subscriptionGroup = checked(UPSERT, async (request) => {
  const group = await upsert("SubscriptionGroup", request);
  for (const kind of ["in", "out"]) {
    await query(
      `INSERT INTO "Segment" ("workspaceId", "name", "resourceType", "subscriptionGroupId") VALUES ($1, $2, 'Internal', $3)
       ON CONFLICT DO NOTHING`,
      [request.workspace, `subscriptionGroup-${group.id}-${kind}`, group.id],
    );
  }
  return [200, group];
});

const COPY = object({ name: TEXT, resourceType: oneOf(Object.keys(TABLES)) });

const duplicate = checked(COPY, async ({ body, workspace }) => {
  const [found] = await find(body.resourceType, workspace, { name: body.name });
  if (!found) throw new Failure(400, "there is no such resource");
  for (let copy = 1; ; copy += 1) {
    try {
      await pause();
      return [200, await insert(body.resourceType, workspace, { name: `${body.name} (${copy})` })];
    } catch (error) {
      if (error.code !== UNIQUE_VIOLATION) throw error;
    }
  }
});

const renameBroadcast = async ({ body, workspace }) => {
  const sql = `UPDATE "Broadcast" SET "name" = $3 WHERE "workspaceId" = $1 AND "id" = $2 RETURNING *`;
  const [row] = await query(sql, [workspace, body.id, body.name]);
  return row ? [200, row] : [404, { message: "Broadcast not found" }];
};

const users = {
  count: async ({ workspace }) => {
    const [{ count }] = await query(`SELECT count(*)::int FROM "ColumnStoreUser" WHERE "workspaceId" = $1`, [workspace]);
    return [200, { userCount: count }];
  },
  list: async ({ workspace }) => [
    200,
    { users: await query(`SELECT "userId" AS id FROM "ColumnStoreUser" WHERE "workspaceId" = $1`, [workspace]) },
  ],
  remove: async (workspace, ids) => {
    await query(`DELETE FROM "ColumnStoreUser" WHERE "workspaceId" = $1 AND "userId" = ANY($2)`, [workspace, ids]);
    return [204];
  },
};

const USER_IDS = object({ userIds: listOf(TEXT) });

const updateManualSegment = checked(USER_IDS, async ({ body, workspace }) => {
  await addUsers(workspace, body.userIds);
  return [200, {}];
});

const assign = checked(object({ userUpdates: listOf(object({ userId: TEXT })) }), async ({ body, workspace }) => {
  await addUsers(workspace, body.userUpdates.map((update) => update.userId));
  return [200];
});

const nothing = async () => [200, {}];

/**
 * By method and path below a mount. A path that ends with a slash is there without it, too: a controller's root. All that the
 * map has a rule for is served, be it that one version of Dittofeed or another lacks some of it.
 */
const ROUTES = {
  "PUT /segments/": upserts("Segment"),
  "DELETE /segments/": byBody(removes("Segment")),
  "DELETE /segments/v2": byQuery(removes("Segment")),
  "PATCH /segments/status": nothing,
  "POST /segments/upload-csv": upload,
  "POST /segments/manual-segment/update": updateManualSegment,
  "PUT /segments/manual-segment/update": updateManualSegment,
  "PUT /journeys/": upserts("Journey"),
  "DELETE /journeys/": byBody(removes("Journey")),
  "DELETE /journeys/v2": byQuery(removes("Journey")),
  "PATCH /journeys/status": nothing,
  "PUT /broadcasts/v2": upserts("Broadcast"),
  "POST /broadcasts/execute": execute,
  "PUT /broadcasts/archive": archive,
  "PUT /broadcasts/": renameBroadcast,
  "PUT /broadcasts/trigger": nothing,
  "POST /broadcasts/trigger": nothing,
  "PUT /user-properties/": upserts("UserProperty"),
  "DELETE /user-properties/": byBody(removes("UserProperty")),
  "PATCH /user-properties/status": nothing,
  "PUT /content/templates": upserts("MessageTemplate"),
  "PUT /content/templates/reset": ({ body: { name }, workspace }) =>
    upserts("MessageTemplate")({ body: { name }, workspace }),
  "DELETE /content/templates": byBody(removes("MessageTemplate")),
  "DELETE /content/templates/v2": byQuery(removes("MessageTemplate")),
  "POST /content/templates/render": nothing,
  "POST /content/templates/test": nothing,
  "PUT /subscription-groups/": subscriptionGroup,
  "DELETE /subscription-groups/": byBody(removes("SubscriptionGroup", { anyWorkspace: true })),
  "POST /subscription-groups/assignments": assign,
  "PUT /subscription-groups/assignments": assign,
  "POST /subscription-groups/upload-csv": upload,
  "POST /users/": users.list,
  "POST /users/count": users.count,
  "DELETE /users/": checked(USER_IDS, ({ body, workspace }) => users.remove(workspace, body.userIds)),
  "DELETE /users/v2": ({ query, workspace }) => users.remove(workspace, query.getAll("userIds")),
  "POST /computed-properties/trigger-recompute": nothing,
  "PUT /computed-properties/periods": nothing,
  "POST /webhooks/segment": webhook,
};

const ONLY_AT_THE_ROOT = { "POST /resources/duplicate": duplicate, "PUT /secrets/": nothing };

const PUBLIC = { "POST /webhooks/segment": webhook };

const APPS = { batch, ...Object.fromEntries(Object.entries(EVENTS).map((kind) => [kind[0], event(kind)])) };

const alias = async () => [400, { message: "Not yet implemented." }];

/** The path as the router reads it, and the query: what is behind a semicolon is of the query, too. */
const target = (url) => {
  const path = url.replace(/^https?:\/\/[^/]*/i, "");
  const end = path.search(/[?;#]/);
  const [raw, search] = end < 0 ? [path, ""] : [path.slice(0, end), path.slice(end + 1)];
  return { path: decodeURI(raw), query: new URLSearchParams(search) };
};

/** The workspace by the write key of a request. */
const byWriteKey = async ({ authorization = "" }) => {
  const [id, value] = Buffer.from(authorization.split(" ")[1] ?? "", "base64").toString("utf8").split(":");
  if (!UUID.test(id)) throw new Failure(401, "Invalid write key.");
  const [secret] = await query(`SELECT "workspaceId", "value" FROM "Secret" WHERE "id" = $1`, [id]);
  if (!secret || secret.value !== value) throw new Failure(401, "Invalid write key.");
  return secret.workspaceId;
};

/** The one workspace that a request names. */
const named = (headers, query, body) => {
  const all = [headers["df-workspace-id"], ...query.getAll("workspaceId"), body?.workspaceId].filter((id) => id !== undefined);
  const different = new Set(all.map((id) => String(id).toLowerCase()));
  if (different.size !== 1) throw new Failure(400, "a request names one workspace");
  const [workspace] = different;
  if (!UUID.test(workspace)) throw new Failure(400, "a workspace is a UUID");
  return workspace;
};

const TABLE = new Map();
for (const [mount, routes] of [
  ["/api", ROUTES],
  ["/api/admin", ROUTES],
  ["/api", ONLY_AT_THE_ROOT],
  ["/api/public", PUBLIC],
]) {
  for (const [route, handle] of Object.entries(routes)) {
    const [method, path] = route.split(" ");
    TABLE.set(`${method} ${mount}${path}`, { handle, whose: named });
    if (path.endsWith("/")) TABLE.set(`${method} ${mount}${path.slice(0, -1)}`, { handle, whose: named });
  }
}
for (const mount of ["/api", "/api/admin"]) {
  for (const [kind, handle] of Object.entries(APPS)) {
    TABLE.set(`POST ${mount}/public/apps/${kind}`, { handle, whose: byWriteKey });
  }
  TABLE.set(`POST ${mount}/public/apps/alias`, { handle: alias, whose: () => undefined });
}

const read = async (request) => {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > BODY_LIMIT) throw new Failure(413, "Request body is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
};

const parsed = (headers, raw) => {
  const type = headers["content-type"] ?? "";
  if (raw.length === 0 || type.startsWith("multipart/form-data")) return {};
  if (!type.startsWith("application/json")) throw new Failure(415, "Unsupported Media Type");
  try {
    return JSON.parse(raw.toString("utf8"));
  } catch {
    throw new Failure(400, "Body is not valid JSON");
  }
};

const answer = async (request) => {
  const { path, query } = target(request.url);
  const route = TABLE.get(`${request.method} ${path}`);
  if (!route) throw new Failure(404, `Route ${request.method}:${path} not found`);
  const { headers } = request;
  const raw = await read(request);
  const seen = { "x-body-sha256": createHash("sha256").update(raw).digest("hex") };
  const body = parsed(headers, raw);
  const workspace = await route.whose(headers, query, body);
  const [status, value] = await route.handle({ headers, query, raw, body, workspace });
  return [status, value, seen];
};

const server = http.createServer(async (request, response) => {
  let [status, value, headers] = [500, { message: "Internal Server Error" }, {}];
  try {
    [status, value, headers] = await answer(request);
  } catch (error) {
    if (error instanceof Failure) [status, value] = [error.status, { message: error.message }];
    else if (error.code === UNIQUE_VIOLATION) [status, value] = [400, { type: "UniqueConstraintViolation" }];
  }
  const text = value === undefined ? "" : JSON.stringify(value);
  const length = status === 204 ? {} : { "content-length": Buffer.byteLength(text) };
  response.writeHead(status, { ...headers, ...length, "content-type": "application/json" });
  response.end(text);
});

server.keepAliveTimeout = 60_000;
server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
process.stdin.resume().on("end", () => process.exit(0));

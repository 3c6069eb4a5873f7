// The example as its users run it: a process, on a fresh file.
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(here, "../../target");
const binary = process.env.QUICKSTART ?? join(target, "debug/examples/quickstart");

export const ADMIN = "admin-token";
export const ACME = "acme-token";

export class Quickstart {
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "quota-dashboard-"));
    this.file = join(this.folder, "quickstart.db");
  }

  // On the address it had before, where it was started before.
  async start(environment = {}) {
    const env = { ...process.env, LISTEN_ADDR: this.address ?? "127.0.0.1:0", DATABASE_URL: `sqlite://${this.file}`, ...environment };
    for (const name of ["QUOTA_ENFORCEMENT_MODE", "QUOTA_ROUTES", "QUOTA_ADMIN_TOKEN", "QUOTA_MEMBER_TOKENS"]) {
      if (!(name in environment)) delete env[name];
    }
    this.process = spawn(binary, [], { env, stdio: ["ignore", "pipe", "inherit"] });
    this.address = await new Promise((resolve, reject) => {
      let printed = "";
      this.process.once("error", reject);
      this.process.once("exit", (code) => reject(new Error(`the quickstart ended early, with ${code}: ${printed}`)));
      this.process.stdout.on("data", (some) => {
        printed += some;
        const told = /listening on http:\/\/([^,]+),/.exec(printed);
        if (told) resolve(told[1]);
      });
    });
    this.url = `http://${this.address}`;
    return this;
  }

  async stop() {
    if (!this.process || this.process.exitCode !== null) return;
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGTERM");
    const late = setTimeout(() => this.process.kill("SIGKILL"), 15_000);
    await ended;
    clearTimeout(late);
  }

  async end() {
    await this.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }

  // With workspaces, history and deliveries as an operator has them.
  async seeded() {
    await this.start();
    await this.stop();
    this.address = undefined;
    execFileSync("python3", [join(here, "seed.py"), this.file], { stdio: "inherit" });
    return this.start();
  }

  async api(method, path, body, token = ADMIN) {
    const answer = await fetch(`${this.url}/api${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : undefined;
  }

  // Limits, plans, requests and a history of changes, made over the API.
  async lived() {
    const plan = (name, limits) => this.api("PUT", `/plans/${name}`, { limits });
    await plan("starter", { maxUsers: 1000, maxSegments: 50, maxJourneys: 20, maxWebhooks: 20 });
    await plan("growth", { maxUsers: 10000, maxSegments: 200, maxJourneys: 100, maxBroadcasts: 500, maxWebhooks: 50 });
    await plan("enterprise", { maxUsers: null, maxSegments: 1000, maxJourneys: 500, maxBroadcasts: null, maxAudiences: 1000 });
    await this.api("PUT", "/workspaces/acme/quota/settings", { plan: "starter", reason: "Contract of 2024" });
    await this.api("PUT", "/workspaces/massive-dynamic/quota/settings", { plan: "growth", reason: "Upgrade, ticket 4211" });
    await this.api("PUT", "/workspaces/acme/quota", { maxBroadcasts: 120, reason: "Spring campaign" });
    await this.api("PUT", "/workspaces/acme/quota", { maxBroadcasts: 100, reason: "The campaign is over" });
    const ask = (workspace, resourceType, amount, reason, token) =>
      this.api("POST", `/workspaces/${workspace}/quota/requests`, { resourceType, amount, reason }, token);
    const denied = await ask("acme", "users", 100000, "We plan to import the old CRM", ACME);
    await this.api("POST", `/workspaces/acme/quota/requests/${denied.request.id}/deny`, { note: "That takes the growth plan" });
    await ask("acme", "segments", 25, "Two more markets go live in spring, each with its own segments", ACME);
    await ask("globex", "users", 250, "The sales team grows", "globex-token");
    await ask("initech-production", "segments", 20, "We are over the limit since the migration");
  }
}

/** The quickstart as its users run it: a process, on a fresh SQLite file and a free port. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";

import { QuotaClient } from "tower-quota-client";

export const ADMIN = "admin-token";
export const ACME = "acme-token";

/** `cargo test` builds it; where it is built elsewhere, `QUICKSTART` says so. */
const BINARY = process.env["QUICKSTART"] ?? "../../target/debug/examples/quickstart";

export class Quickstart {
  private constructor(
    private readonly child: ChildProcess,
    private readonly folder: string,
    /** Without a path. */
    readonly address: string,
  ) {}

  static async start(): Promise<Quickstart> {
    assert.ok(existsSync(BINARY), `${BINARY} is missing: run cargo build --all-features --example quickstart`);
    const folder = mkdtempSync(join(tmpdir(), "quickstart-"));
    const env = {
      LISTEN_ADDR: "127.0.0.1:0",
      DATABASE_URL: `sqlite://${join(folder, "quickstart.db")}`,
      QUOTA_WEBHOOK_NETWORKS: "127.0.0.0/8",
      QUOTA_CLEANUP: "segments=archive",
      RUST_LOG: "error",
    };
    const child = spawn(BINARY, { env, stdio: ["ignore", "pipe", "inherit"] });
    // However the tests end, it doesn't stay.
    process.once("exit", () => child.kill("SIGKILL"));
    for await (const line of createInterface({ input: child.stdout })) {
      const address = /^listening on (http:[^,]+),/.exec(line)?.[1];
      if (address !== undefined) {
        child.stdout.resume();
        return new Quickstart(child, folder, address);
      }
    }
    throw new Error("the quickstart has ended early");
  }

  client(token: string): QuotaClient {
    return new QuotaClient({ baseUrl: `${this.address}/api`, token, timeout: 30_000 });
  }

  /** Creates a segment by the host's own route. */
  create(workspace: string, name: string): Promise<Response> {
    return fetch(`${this.address}/api/workspaces/${workspace}/segments`, {
      method: "POST",
      headers: { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" },
      body: JSON.stringify({ name }),
    });
  }

  async stop(): Promise<void> {
    this.child.kill("SIGTERM");
    if (this.child.exitCode === null) {
      await once(this.child, "exit");
    }
    rmSync(this.folder, { recursive: true });
    assert.equal(this.child.exitCode, 0);
  }
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) {
    all.push(item);
  }
  return all;
}

/** Asks until the answer is one that is waited for, and fails when it never is. */
export async function until<T>(what: string, ask: () => T | undefined | Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) {
      return answer;
    }
    assert.ok(Date.now() < deadline, `never: ${what}`);
    await setTimeout(10);
  }
}

/** The error of a call that has to fail. */
export async function caught<T extends Error>(call: Promise<unknown>, kind: new (...args: never[]) => T): Promise<T> {
  const error: unknown = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof kind, `${kind.name} expected, not ${String(error)}`);
  return error;
}

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { promisify } from "node:util";

import { ADMIN, Quickstart } from "./quickstart.js";

test("the README's example is the one that is compiled, and prints what the README says", async () => {
  const blocks = [...(await readFile("README.md", "utf8")).matchAll(/^```\w+\n(.*?)^```$/gms)].map(([, block]) => block);
  assert.equal(blocks[0], await readFile("examples/limits.ts", "utf8"));
  const quickstart = await Quickstart.start();
  try {
    const env = { QUOTA_URL: `${quickstart.address}/api`, QUOTA_TOKEN: ADMIN };
    const { stdout } = await promisify(execFile)(process.execPath, ["build/examples/limits.js"], { env });
    assert.equal(stdout, blocks[1]);
  } finally {
    await quickstart.stop();
  }
});

import { errorFrom, QuotaClient, QuotaExceeded } from "tower-quota-client";

const baseUrl = process.env["QUOTA_URL"] ?? "http://127.0.0.1:3000/api";
const token = process.env["QUOTA_TOKEN"] ?? "admin-token";
const acme = new QuotaClient({ baseUrl, token }).workspace("acme");

// Room for one more segment, if nobody has changed the quota since it was read.
const { usage, etag } = await acme.status();
const segments = Number(usage["segments"] ?? 0);
await acme.setLimits({ maxSegments: segments + 1 }, { ifMatch: etag, reason: "a small plan" });

// Creations are the host's own routes, behind its `QuotaLayer`.
for (const name of ["Big spenders", "One too many"]) {
  try {
    const response = await fetch(`${baseUrl}/workspaces/acme/segments`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({ name }),
    });
    if (!response.ok) throw await errorFrom(response);
    console.log(`${name}: created`);
  } catch (error) {
    if (!(error instanceof QuotaExceeded)) throw error;
    const { currentUsage, limit } = error.details;
    console.log(`${name}: ${error.message}, ${currentUsage} of ${limit}`);
  }
}

// All pages of the audit log, read as they are needed.
for await (const entry of acme.audit({ resourceType: "segments" })) {
  console.log(`${entry.actor}: ${entry.action}, now ${entry.new}`);
  break;
}

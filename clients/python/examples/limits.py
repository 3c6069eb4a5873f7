import os

import httpx
from tower_quota_client import QuotaClient, QuotaExceeded, error_from

url = os.environ.get("QUOTA_URL", "http://127.0.0.1:3000/api")
token = os.environ.get("QUOTA_TOKEN", "admin-token")

with QuotaClient(url, token) as client:
    acme = client.workspace("acme")

    # Room for one more segment, if nobody has changed the quota since it was read.
    status = acme.status()
    room = status.usage["segments"] + 1
    acme.set_limits({"maxSegments": room}, if_match=status.etag, reason="a small plan")

    # Creations are the host's own routes, behind its `QuotaLayer`.
    for name in ("Big spenders", "One too many"):
        response = httpx.post(
            f"{url}/workspaces/acme/segments", json={"name": name}, headers={"authorization": f"Bearer {token}"}
        )
        try:
            if response.is_error:
                raise error_from(response)
            print(f"{name}: created")
        except QuotaExceeded as error:
            print(f"{name}: {error}, {error.details.current_usage} of {error.details.limit}")

    # All pages of the audit log, read as they are needed.
    for entry in acme.audit(resource_type="segments"):
        print(f"{entry.actor}: {entry.action}, now {entry.new}")
        break

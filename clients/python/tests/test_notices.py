"""Webhooks of a real quickstart, which sends to a real endpoint; and what is told of usage that there really is."""

import base64
import csv
import io
from datetime import UTC, date, datetime
from typing import Any

import pytest
from conftest import Serve
from standardwebhooks import Webhook, WebhookVerificationError
from support import Quickstart, Reply, Seen, create, until
from tower_quota_client import Cleanup, Delivery, NotFound, QuotaClient, ReportRow

GONE = Reply(b"", 410)
TAKEN = Reply(b"", 204)


def verified(sent: Seen, secret: str) -> dict[str, Any]:
    """What was sent, if the secret has signed it: another implementation tells."""
    body: dict[str, Any] = Webhook(secret).verify(sent.body, sent.headers)
    return body


def test_an_endpoint_is_made_read_changed_and_deleted(admin: QuotaClient, name: str) -> None:
    webhooks = admin.webhooks
    url = "https://example.com/hook"
    made = webhooks.add(url, workspace_id=name, events=["quota.warning"], description="ours")
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    assert (made.url, made.workspace_id, made.events) == (url, name, ("quota.warning",))
    read = webhooks.get(made.id)
    assert (read.id, read.status, read.created_at) == (made.id, "active", made.created_at)
    assert read in webhooks.list()
    changed = webhooks.change(made.id, {"active": False, "description": ""})
    assert (changed.status, changed.description, changed.events) == ("disabled", "", ("quota.warning",))
    assert webhooks.rotate_secret(made.id).secret != made.secret
    given = f"whsec_{base64.b64encode(b'thirty-two bytes for a signature').decode()}"
    assert webhooks.rotate_secret(made.id, given).secret == given
    webhooks.delete(made.id)
    for call in (webhooks.get, webhooks.test, lambda id: list(webhooks.deliveries(id))):
        with pytest.raises(NotFound):
            call(made.id)


def test_a_test_arrives_signed_and_what_was_given_up_is_replayed(admin: QuotaClient, name: str, serve: Serve) -> None:
    webhooks = admin.webhooks
    endpoint = serve(GONE, TAKEN)
    made = webhooks.add(f"{endpoint.address}/hook", workspace_id=name)

    def delivery(status: Any) -> Delivery:
        return until(f"it is {status}", lambda: next(iter(webhooks.deliveries(made.id, status=status)), None))

    notice = webhooks.test(made.id)
    dead = delivery("dead")
    assert (dead.notice, dead.attempts, dead.next_at) == (notice, 1, None)
    [attempt] = dead.log
    assert (attempt.ok, attempt.result) == (False, "410")
    assert webhooks.get(made.id).status == "disabled"

    assert webhooks.change(made.id, {"active": True}).status == "active"
    webhooks.replay(made.id, dead.id)
    delivered = delivery("delivered")
    assert (delivered.id, delivered.notice, delivered.log[-1].ok) == (dead.id, notice, True)
    assert list(webhooks.deliveries(made.id)) == [delivered]
    sent = [(seen.method, seen.path, seen.headers["webhook-id"]) for seen in endpoint.seen]
    assert sent == [("POST", "/hook", notice)] * 2
    for seen in endpoint.seen:
        body = verified(seen, made.secret)
        assert (body["event"], body["workspace_id"]) == ("quota.test", name)
        with pytest.raises(WebhookVerificationError):
            verified(seen._replace(body=f"{seen.body} "), made.secret)
    webhooks.delete(made.id)


def test_a_limit_that_is_reached_is_told(
    admin: QuotaClient, quickstart: Quickstart, name: str, serve: Serve
) -> None:
    endpoint = serve(TAKEN)
    made = admin.webhooks.add(endpoint.address, workspace_id=name, events=["quota.exceeded"])
    admin.workspace(name).set_limits({"maxSegments": 1})
    create(quickstart, name, "one")
    body = verified(until("it is told", lambda: next(iter(endpoint.seen), None)), made.secret)
    assert (body["event"], body["workspace_id"]) == ("quota.exceeded", name)
    assert body["data"] == {
        "resource_type": "segments",
        "current_usage": 1,
        "limit": 1,
        "percent_used": 100,
        "threshold": "exceeded",
    }


def test_what_a_workspace_has_of_its_own_goes_with_it(
    admin: QuotaClient, quickstart: Quickstart, name: str, serve: Serve
) -> None:
    webhooks = admin.webhooks
    workspace = admin.workspace(name)
    endpoint = serve(TAKEN)
    own = webhooks.add(endpoint.address, workspace_id=name)
    of_all = webhooks.add(endpoint.address, active=False)
    workspace.set_contacts(["ann@example.com"])
    workspace.set_limits({"maxSegments": 7})
    create(quickstart, name, "one")
    workspace.delete()
    with pytest.raises(NotFound):
        webhooks.get(own.id)
    assert webhooks.get(of_all.id).workspace_id is None
    assert workspace.contacts() == ()
    status = workspace.status()
    assert (status.quota.limits["maxSegments"], status.usage["segments"]) == (50, 1)
    assert {"workspace_deleted", "limit_set"} <= {entry.action for entry in workspace.audit()}
    webhooks.delete(of_all.id)


def test_rows_above_a_limit_are_told_and_go_when_they_are_to(
    admin: QuotaClient, quickstart: Quickstart, name: str
) -> None:
    workspace = admin.workspace(name)
    _, second, third = create(quickstart, name, "one", "two", "three")
    workspace.set_limits({"maxSegments": 1})
    told = Cleanup(
        resource_type="segments", policy="archive", dry_run=True, above=2, removed=0, rows=(third, second)
    )
    assert workspace.cleanup("segments") == told
    assert workspace.status().usage["segments"] == 3
    workspace.change_settings({"mode": "strict"})
    done = workspace.cleanup("segments", dry_run=False, batch=1)
    assert (done.dry_run, done.above, done.removed, done.rows) == (False, 2, 2, told.rows)
    assert workspace.status().usage["segments"] == 1


def test_usage_over_time_and_a_report_on_it(admin: QuotaClient, quickstart: Quickstart, name: str) -> None:
    workspace = admin.workspace(name)
    today = datetime.now(UTC).date()
    workspace.set_limits({"maxSegments": 2, "maxUsers": None})
    create(quickstart, name, "one", "two")
    assert quickstart.create(name, "three").status_code == 429
    found = workspace.analytics(start_date=today, granularity="day")
    assert (found.workspace_id, found.start_date, found.granularity, found.time_zone) == (name, today, "day", "UTC")
    usage = found.trends[-1].usage
    assert (usage["segments"], usage["users"]) == (2, 0)
    # One limit is reached, and of the other there is none.
    reached, unlimited = found.forecast["segments"], found.forecast["users"]
    assert (reached.projected_date, reached.days_until_limit) == (today, 0)
    assert (unlimited.projected_date, unlimited.reason) == (None, "noLimit")

    def refused() -> ReportRow | None:
        rows = workspace.report(day=today).rows
        return next((row for row in rows if row.resource_type == "segments" and row.refusals == 1), None)

    # Refusals are written down some seconds later.
    row = until("the refusal is in the report", refused)
    assert workspace.analytics(start_date=today, granularity="day").trends[-1].refusals == {"segments": 1}
    assert (row.workspace_id, row.period, row.start) == (name, "monthly", today.replace(day=1))
    assert (row.max, row.last, row.limit, row.percent, row.grace_uses, row.limit_changes) == (2, 2, 2, 100, 0, 1)
    report = workspace.report(period="daily", day=today)
    assert (report.period, report.start, report.end, report.time_zone) == ("daily", today, today, "UTC")

    [segments] = [line for line in read(workspace.report_csv(day=today)) if line["resourceType"] == "segments"]
    assert (segments["refusals"], date.fromisoformat(segments["end"])) == ("1", row.end)
    everything = b"".join(admin.system.report_csv(day=today)).decode()
    assert segments in read(everything)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))

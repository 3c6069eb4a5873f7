"""What the quickstart can't answer, since it has no deliveries, cleanup and history: the calls, and what is made of the answers."""

from datetime import UTC, date, datetime

from conftest import Connect, Serve
from support import Reply, json_reply
from tower_quota_client import Attempt, Cleanup, Correction, Forecast, TrendPoint

AT = datetime(2024, 1, 30, 10, tzinfo=UTC)
ID = "01900000-0000-7000-8000-000000000001"
URL = "https://example.com/hook"
WEBHOOK = {
    "id": ID,
    "workspaceId": None,
    "url": URL,
    "events": ["quota.warning"],
    "description": "",
    "status": "active",
    "failures": 0,
    "pausedUntil": None,
    "createdAt": "2024-01-30T10:00:00Z",
    "updatedAt": "2024-01-30T10:00:00.123456789Z",
}


def test_webhooks(connect: Connect, serve: Serve) -> None:
    attempt = {"at": "2024-01-30T10:00:00Z", "tookMs": 12, "ok": False, "result": "refused"}
    delivery = {"id": "d", "notice": "n", "status": "dead", "attempts": 1, "nextAt": None, "log": [attempt], "body": {}}
    peer = serve(
        json_reply({"webhook": {**WEBHOOK, "secret": "whsec_1"}}, 201),
        json_reply({"webhooks": [WEBHOOK]}),
        json_reply({"webhook": WEBHOOK}),
        json_reply({"webhook": {**WEBHOOK, "status": "disabled"}}),
        json_reply({"webhook": {**WEBHOOK, "secret": "whsec_2"}}),
        json_reply({"webhook": {**WEBHOOK, "secret": "whsec_3"}}),
        json_reply({"notice": "n"}, 202),
        json_reply({"deliveries": [delivery], "next": "d"}),
        json_reply({"deliveries": [], "next": None}),
        json_reply({"replayed": "d"}, 202),
        json_reply({"deleted": ID}),
    )
    webhooks = connect(peer.url).webhooks
    made = webhooks.add(URL, events=["quota.warning"])
    assert made.secret == "whsec_1"
    assert "whsec_1" not in repr(made)
    [listed] = webhooks.list()
    assert (listed.events, listed.created_at, listed.updated_at.microsecond) == (("quota.warning",), AT, 123456)
    assert webhooks.get(ID) == listed
    assert webhooks.change(ID, {"active": False}).status == "disabled"
    assert webhooks.rotate_secret(ID).secret == "whsec_2"
    assert webhooks.rotate_secret(ID, "whsec_3").secret == "whsec_3"
    assert webhooks.test(ID) == "n"
    [sent] = webhooks.deliveries(ID, status="dead")
    assert sent.log == (Attempt(at=AT, took_ms=12, ok=False, result="refused"),)
    webhooks.replay(ID, "d")
    webhooks.delete(ID)
    path = f"/api/system/webhooks/{ID}"
    assert [(seen.method, seen.path, seen.body) for seen in peer.seen] == [
        ("POST", "/api/system/webhooks", f'{{"url": "{URL}", "events": ["quota.warning"]}}'),
        ("GET", "/api/system/webhooks", ""),
        ("GET", path, ""),
        ("PUT", path, '{"active": false}'),
        ("POST", f"{path}/secret", "{}"),
        ("POST", f"{path}/secret", '{"secret": "whsec_3"}'),
        ("POST", f"{path}/test", ""),
        ("GET", f"{path}/deliveries?status=dead&limit=500", ""),
        ("GET", f"{path}/deliveries?status=dead&limit=500&cursor=d", ""),
        ("POST", f"{path}/deliveries/d/replay", ""),
        ("DELETE", path, ""),
    ]


def test_a_recount_that_changes_nothing(connect: Connect, serve: Serve) -> None:
    correction = {"resourceType": "segments", "cached": 47, "actual": 45, "drift": -2}
    recount = {"workspaceId": "acme", "usage": {"segments": 45}, "recalculatedAt": "2024-01-30T10:00:00Z"}
    answer = json_reply({**recount, "corrections": [correction]})
    peer = serve(answer, answer)
    workspace = connect(peer.url).workspace("acme")
    told = workspace.recalculate(dry_run=True)
    assert told.corrections == (Correction(resource_type="segments", cached=47, actual=45, drift=-2),)
    assert workspace.recalculate() == told
    path = "/api/workspaces/acme/quota/recalculate"
    assert [seen.path for seen in peer.seen] == [f"{path}?dryRun=true", path]


def test_cleanup(connect: Connect, serve: Serve) -> None:
    report = {
        "resourceType": "segments",
        "policy": "archive",
        "dryRun": True,
        "above": 1,
        "removed": 0,
        "rows": ["s-1"],
    }
    peer = serve(json_reply(report))
    assert connect(peer.url).workspace("acme").cleanup("segments", batch=5) == Cleanup(
        resource_type="segments", policy="archive", dry_run=True, above=1, removed=0, rows=("s-1",)
    )
    assert peer.seen[0].body == '{"resourceType": "segments", "dryRun": true, "batch": 5}'


def test_analytics_and_reports(connect: Connect, serve: Serve) -> None:
    analytics = {
        "trends": [
            {"date": "2024-01-01", "usage": {"segments": 30, "journeys": 10, "users": 500}, "refusals": {"segments": 2}}
        ],
        "forecast": {
            "segments": {"projectedDate": "2024-02-15", "daysUntilLimit": 45, "growthRate": 0.02},
            "users": {"projectedDate": None, "daysUntilLimit": None, "growthRate": None, "reason": "noLimit"},
        },
        "timeZone": "UTC",
    }
    row = {
        "workspaceId": "acme",
        "period": "monthly",
        "start": "2024-01-01",
        "end": "2024-01-31",
        "resourceType": "segments",
        "min": 1,
        "max": 3,
        "last": 2,
        "limit": 50,
        "percent": 4,
        "refusals": None,
        "graceUses": 0,
        "limitChanges": 1,
    }
    report = {"period": "monthly", "start": "2024-01-01", "end": "2024-01-31", "timeZone": "UTC", "rows": [row]}
    csv = "workspaceId,period\r\nacme,monthly\r\n"
    peer = serve(json_reply(analytics), json_reply(report), Reply(csv.encode(), headers={"content-type": "text/csv"}))
    workspace = connect(peer.url).workspace("acme")
    found = workspace.analytics(start_date=date(2024, 1, 1), end_date=date(2024, 1, 31), granularity="day")
    usage = {"segments": 30, "journeys": 10, "users": 500}
    assert found.trends == (TrendPoint(date="2024-01-01", usage=usage, refusals={"segments": 2}),)
    assert found.forecast["segments"] == Forecast(
        projected_date=date(2024, 2, 15), days_until_limit=45, growth_rate=0.02
    )
    assert found.forecast["users"].reason == "noLimit"
    [read] = workspace.report(day=date(2024, 1, 5)).rows
    assert (read.start, read.last, read.refusals, read.limit_changes) == (date(2024, 1, 1), 2, None, 1)
    assert workspace.report_csv(period="monthly") == csv
    assert [seen.path for seen in peer.seen] == [
        "/api/workspaces/acme/quota/analytics?startDate=2024-01-01&endDate=2024-01-31&granularity=day",
        "/api/workspaces/acme/quota/report?format=json&date=2024-01-05",
        "/api/workspaces/acme/quota/report?format=csv&period=monthly",
    ]

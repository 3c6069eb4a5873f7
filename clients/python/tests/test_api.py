"""The API of a real quickstart."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from conftest import Connect
from support import ACME, ADMIN, Quickstart, create
from tower_quota_client import (
    ApiError,
    Exceeded,
    Forbidden,
    Grace,
    InvalidRequest,
    LimitStep,
    NotFound,
    PreconditionFailed,
    QuotaClient,
    QuotaExceeded,
    TypeConfig,
    Unauthenticated,
    UnexpectedAnswer,
    Unreachable,
    Verdict,
    error_from,
)

MOST = 2**63 - 1


def test_a_status_has_limits_usage_and_percentages(admin: QuotaClient, quickstart: Quickstart, name: str) -> None:
    create(quickstart, name, "one")
    status = admin.workspace(name).status()
    assert status.quota.workspace_id == name
    assert status.quota.limits["maxSegments"] == 50
    assert status.quota.limits["maxCustomMetrics"] == 50
    assert not {"id", "workspaceId", "createdAt", "updatedAt"} & status.quota.limits.keys()
    assert abs((datetime.now(UTC) - status.quota.created_at).total_seconds()) < 3600
    assert (status.usage["segments"], status.percentages["segments"]) == (1, 2)
    assert status.etag.strip('"').isdigit()


def test_limits_are_set_taken_back_and_explained(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    update = workspace.set_limits({"maxSegments": 7, "maxUsers": None}, reason="they pay")
    assert (update.quota.limits["maxSegments"], update.quota.limits["maxUsers"]) == (7, None)
    assert update.warnings == ()
    explanation = workspace.explain().explain["segments"]
    assert explanation.trace == (LimitStep(source="override", limit=7), LimitStep(source="default", limit=50))
    assert workspace.clear_limit("segments").quota.limits["maxSegments"] == 50
    workspace.delete()
    assert workspace.status().quota.limits["maxUsers"] == 1000


def test_a_limit_below_usage_is_warned_about(admin: QuotaClient, quickstart: Quickstart, name: str) -> None:
    create(quickstart, name, "one", "two")
    [warning] = admin.workspace(name).set_limits({"maxSegments": 1}).warnings
    assert "maxSegments is 1, below the 2 that exist" in warning


def test_the_largest_limit_is_exact_both_ways(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    update = workspace.set_limits({"maxSegments": MOST, "maxUsers": 2**53 + 1})
    assert (update.quota.limits["maxSegments"], update.quota.limits["maxUsers"]) == (MOST, 2**53 + 1)
    assert workspace.status().quota.limits == update.quota.limits
    verdict = workspace.validate("segments", MOST)
    assert (verdict.allowed, verdict.remaining) == (True, MOST)
    assert next(workspace.audit(resource_type="segments")).new == MOST
    with pytest.raises(InvalidRequest):
        workspace.set_limits({"maxSegments": MOST + 1})


def test_numbers_that_json_does_not_have_are_not_sent(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    with pytest.raises(ValueError, match="JSON compliant"):
        workspace.set_limits({"maxSegments": float("nan")})  # type: ignore[dict-item]
    assert workspace.status().quota.limits["maxSegments"] == 50


def test_a_version_that_is_gone_is_a_failed_precondition(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    etag = workspace.status().etag
    workspace.set_limits({"maxSegments": 5}, if_match=etag)
    with pytest.raises(PreconditionFailed) as caught:
        workspace.set_limits({"maxSegments": 6}, if_match=etag)
    assert (caught.value.status, caught.value.code) == (412, "PRECONDITION_FAILED")
    assert workspace.status().quota.limits["maxSegments"] == 5


def test_one_too_many_is_refused_with_the_numbers(admin: QuotaClient, quickstart: Quickstart, name: str) -> None:
    workspace = admin.workspace(name)
    workspace.set_limits({"maxSegments": 1})
    create(quickstart, name, "one")
    details = Exceeded(resource_type="segments", current_usage=1, limit=1, requested=1, remaining=0)
    with pytest.raises(QuotaExceeded, match="^Segment quota exceeded$") as caught:
        workspace.validate("segments")
    refused = caught.value
    assert (refused.details, refused.status, refused.code) == (details, 429, "QUOTA_EXCEEDED")
    assert refused.retry_after is None

    error = error_from(quickstart.create(name, "two"))
    assert isinstance(error, QuotaExceeded)
    assert error.details == details

    assert workspace.validate("segments", 2, soft=True) == Verdict(
        allowed=False, current_usage=1, limit=1, remaining=0, percent_used=100, would_exceed=True
    )


def test_a_refusal_by_a_cap_above_names_it(admin: QuotaClient, name: str) -> None:
    top = f"top-{name}"
    admin.workspace(top).change_settings({"caps": {"segments": 0}})
    admin.workspace(name).change_settings({"parent": top})
    with pytest.raises(QuotaExceeded) as caught:
        admin.workspace(name).validate("segments")
    assert caught.value.details.capped_by == top


def test_rows_are_counted_anew(admin: QuotaClient, quickstart: Quickstart, name: str) -> None:
    create(quickstart, name, "one")
    recount = admin.workspace(name).recalculate()
    assert (recount.workspace_id, recount.usage["segments"]) == (name, 1)
    told = admin.workspace(name).recalculate(dry_run=True)
    assert (told.usage["segments"], told.corrections) == (1, ())


def test_settings_are_changed_part_by_part(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    admin.plans.put(name, {"maxSegments": 3})
    grace = Grace(enabled=True, percentage=10, duration=3600, resources=("segments",))
    changed = workspace.change_settings({"plan": name, "modes": {"users": "warn"}, "grace": grace, "reason": "trial"})
    assert (changed.plan, changed.modes, changed.grace) == (name, {"users": "warn"}, grace)
    cleared = workspace.change_settings({"plan": None}, if_match=changed.etag)
    assert (cleared.plan, cleared.grace, cleared.grace_uses) == (None, grace, {})
    assert workspace.settings() == cleared
    admin.plans.delete(name)


def test_plans_have_versions(admin: QuotaClient, name: str) -> None:
    made = admin.plans.put(name, {"maxSegments": 500, "maxUsers": None})
    changed = admin.plans.put(name, {"maxSegments": MOST}, if_match=made.etag)
    assert (changed.version, changed.limits) == (2, {"maxSegments": MOST})
    with pytest.raises(PreconditionFailed):
        admin.plans.put(name, {}, if_match=made.etag)
    assert admin.plans.get(name) == changed
    assert changed in admin.plans.list()
    admin.plans.delete(name)
    with pytest.raises(NotFound):
        admin.plans.get(name)


def test_overrides_are_for_a_time(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    expires_at = datetime(2100, 1, 1, tzinfo=UTC)
    added = workspace.add_override("segments", 99, expires_at=expires_at, reason="fair")
    assert (added.limit, added.expires_at) == (99, expires_at)
    assert workspace.overrides() == (added,)
    assert workspace.status().quota.limits["maxSegments"] == 99
    assert workspace.end_override(added.id).quota.limits["maxSegments"] == 50
    with pytest.raises(NotFound):
        workspace.end_override(added.id)
    with pytest.raises(ValueError, match="no time zone"):
        workspace.add_override("segments", 99, expires_at=datetime(2100, 1, 1), reason="where?")


def test_requests_are_made_decided_and_withdrawn(connect: Connect, admin: QuotaClient, quickstart: Quickstart) -> None:
    member = connect(quickstart.url, ACME).workspace("acme")
    workspace = admin.workspace("acme")
    before = workspace.status().quota.limits["maxJourneys"]
    assert before is not None
    asked = [member.make_request("journeys", amount, reason="growth") for amount in (5, 6, 7)]
    first, second, third = (request.id for request in asked)
    note = str(uuid4())
    assert workspace.approve_request(first, note=note).status == "approved"
    assert workspace.deny_request(second).status == "denied"
    assert member.withdraw_request(third).status == "withdrawn"
    assert workspace.status().quota.limits["maxJourneys"] == before + 5
    assert [request.id for request in member.requests()][:3] == [third, second, first]
    assert next(admin.system.requests(status="approved")).note == note
    with pytest.raises(PreconditionFailed):
        workspace.deny_request(first)
    with pytest.raises(Forbidden):
        member.approve_request(second)


def test_the_audit_log_is_read_page_by_page(admin: QuotaClient, name: str) -> None:
    workspaces = [f"{name}-{n}" for n in range(510)]
    since = datetime.now(UTC)
    assert admin.system.set_limits(workspaces, {"maxSubscriptionGroups": 1}, reason=name) == len(workspaces)
    entries = list(admin.system.audit(resource_type="subscriptionGroups", since=since))
    assert {entry.workspace_id for entry in entries} == set(workspaces)
    assert len(entries) == len(workspaces)
    assert [entry.seq for entry in entries] == sorted((entry.seq for entry in entries), reverse=True)
    # Who has seen enough stops.
    entry = next(admin.system.audit(workspace_id=workspaces[7]))
    assert (entry.action, entry.actor, entry.reason, entry.new) == ("limit_set", "token 1", name, 1)


def test_what_concerns_all_workspaces(admin: QuotaClient, quickstart: Quickstart, name: str) -> None:
    system = admin.system
    system.health()
    assert system.set_limits([name], {"maxSegments": 4}) == 1
    create(quickstart, name, "one")
    imported = system.import_limits(percent=200, floor=3)
    assert imported.summary.done
    found = [proposal for proposal in imported.proposals if proposal.workspace_id == name]
    [segments] = [proposal for proposal in found if proposal.resource_type == "segments"]
    assert (segments.usage, segments.existing, segments.proposed, segments.taken) == (1, 4, 3, False)
    assert any(proposal.existing == "unset" for proposal in found)

    readiness = system.readiness(1)
    assert readiness.workspaces > 0
    assert "segments" in readiness.types

    shadow = system.start_shadow({"maxSegments": 1}, [name])
    assert (shadow.evaluated, shadow.workspaces) == (0, ())
    create(quickstart, name, "two")
    assert system.shadow(5).would_refuse == 1
    assert system.stop_shadow().workspaces[0].limit == 1
    with pytest.raises(NotFound):
        system.shadow()


def test_the_set_up_tells_how_it_stands(admin: QuotaClient) -> None:
    status = admin.system.status()
    assert (status.store.kind, status.ledger, status.promise) == ("sqlite", "process", "exact")
    assert status.store.schema is not None and status.store.schema.applied == status.store.schema.known
    [replica] = status.replicas
    assert (replica.id, replica.this) == (None, True)
    assert replica.config is not None
    assert replica.config.types["segments"] == TypeConfig(limit_field="maxSegments", default_limit=50)


def test_modes_are_changed_at_run_time(admin: QuotaClient) -> None:
    system = admin.system
    changed = system.set_enforcement("warn", types={"users": "strict"})
    assert (changed.mode, changed.source, changed.promise) == ("warn", "runtime", "exact")
    assert changed.types == {"users": "strict"}
    restored = system.set_enforcement("enforce", types={"users": None})
    assert (restored.mode, restored.types) == ("enforce", {})
    assert system.enforcement() == restored


def test_contacts(admin: QuotaClient, name: str) -> None:
    workspace = admin.workspace(name)
    assert workspace.set_contacts(["ann@example.com"]) == ("ann@example.com",)
    assert workspace.contacts() == ("ann@example.com",)


def test_what_is_refused_is_told_by_class_and_code(
    connect: Connect, admin: QuotaClient, quickstart: Quickstart, name: str
) -> None:
    workspace = admin.workspace(name)
    member = connect(quickstart.url, ACME)
    nobody = connect(quickstart.url, "nobody")
    cases: list[tuple[Callable[[], object], type[ApiError], str, str]] = [
        (lambda: nobody.workspace("acme").status(), Unauthenticated, "UNAUTHENTICATED", "."),
        (lambda: connect(quickstart.url).plans.list(), Unauthenticated, "UNAUTHENTICATED", "."),
        (lambda: member.workspace("globex").status(), Forbidden, "INSUFFICIENT_PERMISSIONS", "not open"),
        (lambda: member.workspace("acme").set_limits({}), Forbidden, "INSUFFICIENT_PERMISSIONS", "admin"),
        (lambda: workspace.set_limits({"maxCats": 1}), InvalidRequest, "INVALID_RESOURCE_TYPE", "maxSegments"),
        (lambda: workspace.set_limits({"maxSegments": -1}), InvalidRequest, "INVALID_REQUEST", "null for unlimited"),
        (lambda: workspace.validate("segments", 0), InvalidRequest, "INVALID_REQUEST", "increment"),
        (lambda: workspace.set_tally({"segments": 1}), InvalidRequest, "INVALID_REQUEST", "not counted by the ledger"),
        (lambda: workspace.set_tally({"cats": 1}), InvalidRequest, "INVALID_RESOURCE_TYPE", "segments"),
        (lambda: workspace.set_limits({}, reason="x" * 70_000), InvalidRequest, "PAYLOAD_TOO_LARGE", "."),
        (lambda: workspace.end_override("no-id"), NotFound, "NOT_FOUND", "."),
    ]
    for call, kind, code, message in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert caught.value.code == code


def test_there_is_a_method_for_every_operation_of_the_server(quickstart: Quickstart) -> None:
    with QuotaClient(quickstart.url, ADMIN) as client:
        methods = operations(client)
    document = httpx.get(f"{quickstart.url}/openapi.json", trust_env=False, timeout=30).json()
    served = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    assert served == methods.keys() | {"getDocument", "getDocs"}
    assert all(callable(method) for method in methods.values())


def operations(client: QuotaClient) -> dict[str, object]:
    """By the names that the server's description has for them."""
    workspace, plans, webhooks, system = client.workspace("acme"), client.plans, client.webhooks, client.system
    return {
        "readQuota": workspace.status,
        "updateQuota": workspace.set_limits,
        "clearLimit": workspace.clear_limit,
        "deleteQuota": workspace.delete,
        "validate": workspace.validate,
        "recalculate": workspace.recalculate,
        "setTally": workspace.set_tally,
        "cleanUp": workspace.cleanup,
        "readSettings": workspace.settings,
        "updateSettings": workspace.change_settings,
        "listOverrides": workspace.overrides,
        "addOverride": workspace.add_override,
        "endOverride": workspace.end_override,
        "listRequests": workspace.requests,
        "makeRequest": workspace.make_request,
        "approveRequest": workspace.approve_request,
        "denyRequest": workspace.deny_request,
        "withdrawRequest": workspace.withdraw_request,
        "readAudit": workspace.audit,
        "analytics": workspace.analytics,
        "report": workspace.report,
        "readContacts": workspace.contacts,
        "setContacts": workspace.set_contacts,
        "listPlans": plans.list,
        "readPlan": plans.get,
        "putPlan": plans.put,
        "deletePlan": plans.delete,
        "listWebhooks": webhooks.list,
        "addWebhook": webhooks.add,
        "readWebhook": webhooks.get,
        "changeWebhook": webhooks.change,
        "removeWebhook": webhooks.delete,
        "rotateWebhookSecret": webhooks.rotate_secret,
        "testWebhook": webhooks.test,
        "listDeliveries": webhooks.deliveries,
        "replayDelivery": webhooks.replay,
        "health": system.health,
        "readStatus": system.status,
        "readEnforcement": system.enforcement,
        "updateEnforcement": system.set_enforcement,
        "setQuotas": system.set_limits,
        "importLimits": system.import_limits,
        "readiness": system.readiness,
        "readShadow": system.shadow,
        "startShadow": system.start_shadow,
        "stopShadow": system.stop_shadow,
        "listAllRequests": system.requests,
        "readWholeAudit": system.audit,
        "systemReport": system.report_csv,
    }


def test_ids_go_into_the_path_as_they_are(admin: QuotaClient) -> None:
    for id in ("a/b?c#d", "../acme", "ünï 100%", "%2e%2e", "a+b&c=d;e"):
        assert admin.workspace(id).status().quota.workspace_id == id
    for id in ("", ".", ".."):
        with pytest.raises(ValueError, match="not an id"):
            admin.workspace(id).status()


def test_where_the_api_is_not_is_told(connect: Connect, quickstart: Quickstart) -> None:
    elsewhere = connect(f"{quickstart.address}/elsewhere", ADMIN)
    with pytest.raises(UnexpectedAnswer, match="base_url") as caught:
        elsewhere.workspace("acme").status()
    assert caught.value.status == 404


def test_a_server_that_is_gone_is_unreachable(connect: Connect) -> None:
    quickstart = Quickstart()
    client = connect(quickstart.url, ADMIN, retries=1)
    client.system.health()
    quickstart.stop()
    with pytest.raises(Unreachable, match=f"^no answer from {quickstart.address}: ."):
        client.system.health()

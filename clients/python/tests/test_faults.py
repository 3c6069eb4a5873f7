"""What can go wrong on the way, by a real server that does it."""

import gzip
import json
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import httpx
import pytest
from conftest import Connect, Serve
from support import Handler, Reply, endless, hang, json_reply, reset
from tower_quota_client import (
    ApiError,
    AsyncQuotaClient,
    Exceeded,
    InvalidRequest,
    QuotaClient,
    QuotaError,
    QuotaExceeded,
    TallySet,
    TimedOut,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)

OK = json_reply({"overrides": []})
BROKEN = Reply(b"", 0, then=reset)
CLOSED = Reply(b"", 0)
HALF = Reply(b'{"over', headers={"content-length": "100"}, then=reset)


def unavailable(**headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return json_reply({"error": "QUOTA_UNAVAILABLE", "message": "try again"}, 503, names)


def test_a_get_is_tried_again_when_retry_after_says_so(connect: Connect, serve: Serve) -> None:
    page = Reply(b"<h1>Maintenance</h1>", 503, {"content-type": "text/html", "retry-after": "0"})
    peer = serve(unavailable(retry_after="0"), page, OK)
    assert connect(peer.url).workspace("acme").overrides() == ()
    assert len(peer.seen) == 3


def test_retries_have_an_end(connect: Connect, serve: Serve) -> None:
    peer = serve(unavailable(retry_after="0"))
    with pytest.raises(Unavailable) as caught:
        connect(peer.url, retries=3).workspace("acme").overrides()
    assert (caught.value.status, caught.value.retry_after, len(peer.seen)) == (503, 0, 4)
    with pytest.raises(Unavailable):
        connect(peer.url, retries=0).workspace("acme").overrides()
    assert len(peer.seen) == 5


def test_without_a_near_retry_after_nothing_is_tried_again(connect: Connect, serve: Serve) -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    replies = [unavailable(), *(unavailable(retry_after=when) for when in ("3600", in_an_hour, "soon"))]
    peer = serve(*replies)
    workspace = connect(peer.url).workspace("acme")
    found = []
    for _ in replies:
        with pytest.raises(Unavailable) as caught:
            workspace.overrides()
        found.append(caught.value.retry_after)
    assert found[:2] == [None, 3600]
    assert found[2] is not None
    assert 3000 < found[2] <= 3600
    assert found[3] is None
    assert len(peer.seen) == len(replies)


def test_a_get_is_tried_again_when_the_connection_breaks(connect: Connect, serve: Serve) -> None:
    peer = serve(BROKEN, CLOSED, HALF, OK)
    assert connect(peer.url, retries=3).workspace("acme").overrides() == ()
    assert len(peer.seen) == 4


@pytest.mark.parametrize("fault", [BROKEN, CLOSED, unavailable(retry_after="0")])
def test_changes_are_never_sent_twice(connect: Connect, serve: Serve, fault: Reply) -> None:
    peer = serve(fault)
    workspace = connect(peer.url).workspace("acme")
    calls: list[Callable[[], object]] = [
        lambda: workspace.validate("segments"),
        lambda: workspace.recalculate(),
        lambda: workspace.set_limits({"maxSegments": 1}),
        lambda: workspace.set_limits({"maxSegments": 1}, if_match='"7"'),
        lambda: workspace.delete(),
    ]
    for call in calls:
        with pytest.raises((Unreachable, Unavailable)):
            call()
    assert [seen.method for seen in peer.seen] == ["POST", "POST", "PUT", "PUT", "DELETE"]
    assert peer.seen[3].headers["if-match"] == '"7"'


def test_a_call_ends_at_its_time_out_also_within_the_answer(connect: Connect, serve: Serve) -> None:
    for reply in (Reply(b"", 0, then=hang), Reply(b"{", then=hang)):
        peer = serve(reply)
        with pytest.raises(TimedOut, match=r"^no answer within 0.5 s$"):
            connect(peer.url, timeout=0.5).workspace("acme").status()
        assert len(peer.seen) == 1, "what has timed out is not tried again"


def test_a_call_ends_also_where_bytes_keep_coming(connect: Connect, serve: Serve) -> None:
    def drip(handler: Handler) -> None:
        while not peer.over.wait(0.05):
            handler.wfile.write(b" ")

    peer = serve(Reply(b"{", then=drip))
    with pytest.raises(TimedOut):
        connect(peer.url, timeout=0.5).workspace("acme").status()


def test_an_async_call_can_be_cancelled(serve: Serve) -> None:
    peer = serve(Reply(b"", 0, then=hang))

    async def run() -> None:
        async with AsyncQuotaClient(peer.url, timeout=60) as client:
            with anyio.move_on_after(0.2) as scope:
                await client.workspace("acme").status()
            assert scope.cancelled_caught

    anyio.run(run)


def test_a_proxys_page_is_no_answer_of_the_api(connect: Connect, serve: Serve) -> None:
    page = f"<html><h1>502   Bad Gateway</h1>{'x' * 5000}</html>".encode()
    peer = serve(Reply(page, 502, {"content-type": "text/html"}))
    with pytest.raises(UnexpectedAnswer, match="status 502, text/html: <html><h1>502 Bad Gateway</h1>x+…$") as caught:
        connect(peer.url).workspace("acme").status()
    assert caught.value.status == 502
    assert len(str(caught.value)) < 350
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(b"<h1>Sign in</h1>", headers={"content-type": "text/html"}), "no JSON object: .*<h1>Sign in"),
        (Reply(b""), "no JSON object"),
        (Reply(b"\xff{}"), "no JSON object"),
        (Reply(b"[" * 100_000 + b"]" * 100_000), "no JSON object"),
        (json_reply([1]), "no JSON object"),
        (json_reply({"hello": "world"}), "the answer has no `overrides`"),
        (json_reply({"overrides": None}), "`overrides` is null, not an array"),
        (json_reply({"overrides": [{"id": 5}]}), r"`overrides\[0\].id` is a int, not a str"),
        (Reply(b"no gzip", headers={"content-encoding": "gzip"}), "encoding can't be read"),
    ],
)
def test_a_success_that_is_not_the_apis(connect: Connect, serve: Serve, reply: Reply, message: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=message):
        connect(serve(reply).url).workspace("acme").overrides()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(connect: Connect, serve: Serve, status: int) -> None:
    elsewhere = serve(OK)
    peer = serve(Reply(b"", status, {"location": f"{elsewhere.address}/steal"}))
    with pytest.raises(UnexpectedAnswer, match="redirect to .*/steal, which is not followed") as caught:
        connect(peer.url, "the-token").workspace("acme").overrides()
    assert caught.value.status == status
    assert peer.seen[0].headers["authorization"] == "Bearer the-token"
    assert elsewhere.seen == []


def test_an_answer_without_end_is_not_read_to_the_end(connect: Connect, serve: Serve) -> None:
    bomb = Reply(gzip.compress(b" " * 20_000_000), headers={"content-encoding": "gzip"})
    for reply in (Reply(b"", then=endless), bomb):
        with pytest.raises(UnexpectedAnswer, match="more than 8388608 bytes"):
            connect(serve(reply).url, timeout=60).workspace("acme").overrides()
    with pytest.raises(UnexpectedAnswer, match="more than 5 bytes"):
        connect(serve(OK).url, max_body=5).workspace("acme").overrides()


def test_a_report_on_all_workspaces_comes_in_pieces_without_bound(connect: Connect, serve: Serve) -> None:
    whole = b"x" * 20_000_000
    peer = serve(unavailable(retry_after="0"), Reply(whole, headers={"content-type": "text/csv"}))
    sizes = [len(piece) for piece in connect(peer.url, timeout=60).system.report_csv(period="weekly")]
    assert sum(sizes) == len(whole)
    assert max(sizes) <= 1_000_000
    assert [seen.path for seen in peer.seen] == ["/api/system/quota-report?format=csv&period=weekly"] * 2


def test_a_report_that_breaks_off_or_hangs_is_not_taken_for_whole(connect: Connect, serve: Serve) -> None:
    broken = serve(Reply(b"workspaceId\r\n", headers={"content-length": "100"}, then=reset))
    with pytest.raises(Unreachable):
        list(connect(broken.url).system.report_csv())
    stuck = serve(Reply(b"workspaceId\r\n", headers={"content-length": "100"}, then=hang))
    with pytest.raises(TimedOut):
        list(connect(stuck.url, timeout=0.5).system.report_csv())
    refused = serve(json_reply({"error": "INVALID_REQUEST", "message": "no"}, 400))
    with pytest.raises(InvalidRequest):
        list(connect(refused.url).system.report_csv())
    assert len(broken.seen) == len(stuck.seen) == 1, "what has begun is not begun anew"


def test_error_bodies_of_all_kinds(connect: Connect, serve: Serve) -> None:
    details = {"resourceType": "segments", "currentUsage": 48, "limit": 50, "requested": 3, "remaining": 1, "reserved": 1}
    peer = serve(
        json_reply({"error": "QUOTA_EXCEEDED", "message": "over", "details": details}, 429, {"retry-after": "1"}),
        json_reply({"error": "QUOTA_EXCEEDED", "message": "no details"}, 429),
        json_reply({"error": "OF_THE_FUTURE", "message": "unknown", "details": {"x": 1}}, 409),
        json_reply({"error": {"message": "another API"}}, 400),
        json_reply("QUOTA_EXCEEDED", 429),
        Reply(b"[" * 100_000, 400),
    )
    workspace = connect(peer.url).workspace("acme")

    def error() -> QuotaError:
        with pytest.raises(QuotaError) as caught:
            workspace.validate("segments", 3)
        return caught.value

    in_flight = error()
    assert isinstance(in_flight, QuotaExceeded)
    numbers = Exceeded(resource_type="segments", current_usage=48, limit=50, requested=3, remaining=1, reserved=1)
    assert (in_flight.details, in_flight.retry_after) == (numbers, 1)
    bare = error()
    assert type(bare) is ApiError
    assert bare.code == "QUOTA_EXCEEDED"
    unknown = error()
    assert type(unknown) is ApiError
    assert (unknown.status, unknown.code, unknown.details) == (409, "OF_THE_FUTURE", {"x": 1})
    assert [type(error()) for _ in range(3)] == [UnexpectedAnswer] * 3


def test_rows_that_the_ledger_alone_counts_are_set(connect: Connect, serve: Serve) -> None:
    before, rows = {"segments": 3, "users": 0}, {"segments": 45, "users": 2**63 - 1}
    peer = serve(json_reply({"workspaceId": "acme", "before": before, "rows": rows}))
    workspace = connect(peer.url).workspace("acme")
    done = workspace.set_tally(rows, reason="counted by hand")
    assert done == TallySet(workspace_id="acme", before=before, rows=rows)
    workspace.set_tally({"segments": 45})
    sent = [(seen.method, seen.path, json.loads(seen.body)) for seen in peer.seen]
    path = "/api/workspaces/acme/quota/tally"
    assert sent == [
        ("PUT", path, {"rows": rows, "reason": "counted by hand"}),
        ("PUT", path, {"rows": {"segments": 45}}),
    ]


def test_errors_go_from_one_process_to_another() -> None:
    numbers = Exceeded(resource_type="segments", current_usage=1, limit=1, requested=1, remaining=0)
    error = pickle.loads(pickle.dumps(QuotaExceeded("over", 429, "QUOTA_EXCEEDED", numbers, 1)))
    assert (type(error), str(error), error.details, error.retry_after) == (QuotaExceeded, "over", numbers, 1)


def test_the_health_check_tells_a_store_that_does_not_answer(connect: Connect, serve: Serve) -> None:
    peer = serve(json_reply({"status": "unavailable"}, 503), Reply(b"<h1>Not found</h1>", 404))
    with pytest.raises(Unavailable, match="the store of the quota does not answer"):
        connect(peer.url).system.health()
    with pytest.raises(UnexpectedAnswer):
        connect(peer.url).system.health()


def test_pages_that_never_end_are_noticed(connect: Connect, serve: Serve) -> None:
    page = json_reply({"entries": [], "next": "1"})
    peer = serve(page, page, json_reply({"entries": [], "next": None}))
    with pytest.raises(UnexpectedAnswer, match="just read"):
        list(connect(peer.url).system.audit())
    assert [seen.path for seen in peer.seen] == [
        "/api/system/quota-audit?limit=500",
        "/api/system/quota-audit?limit=500&cursor=1",
    ]


def test_options_that_make_no_sense_are_refused_at_once() -> None:
    url = "https://example.com/api"
    for wrong in ("", "example.com/api", "ftp://example.com", "https://ann:secret@example.com", f"{url}?x", f"{url}#x"):
        with pytest.raises(ValueError, match="`base_url`"):
            QuotaClient(wrong)
    for token in ("", "two words", "line\r\nbreak", "ü"):
        with pytest.raises(ValueError, match="`token`") as caught:
            QuotaClient(url, token)
        assert not token or token not in str(caught.value)
    for options in ({"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"max_body": 0}):
        with pytest.raises(ValueError, match="`"):
            QuotaClient(url, **options)


def test_the_token_is_shown_nowhere(serve: Serve) -> None:
    with QuotaClient(serve(BROKEN).url, "the-token", retries=0) as client:
        with pytest.raises(Unreachable) as caught:
            client.system.health()
        shown = [repr(client), repr(client._transport), repr(client._transport._rules), repr(caught.value)]
    assert not [text for text in shown if "the-token" in text]


def test_a_client_of_ones_own_stays_open_and_does_not_follow_redirects(serve: Serve) -> None:
    peer = serve(OK, Reply(b"", 302, {"location": "/steal"}))
    with httpx.Client(headers={"x-own": "1"}, follow_redirects=True, auth=("ann", "secret")) as http:
        with QuotaClient(peer.url, "the-token", http=http) as client:
            assert client.workspace("acme").overrides() == ()
            with pytest.raises(UnexpectedAnswer, match="redirect"):
                client.workspace("acme").overrides()
        assert not http.is_closed
    assert (peer.seen[0].headers["x-own"], peer.seen[0].headers["authorization"]) == ("1", "Bearer the-token")
    assert len(peer.seen) == 2


def test_threads_may_share_a_client(serve: Serve) -> None:
    peer = serve(OK)
    answers: list[object] = []
    with QuotaClient(peer.url, timeout=60) as client:
        call = client.workspace("acme").overrides
        threads = [threading.Thread(target=lambda: answers.append(call())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [()] * 8

"""The client. Each operation is written once, and is there with and without `await`."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from ._errors import UnexpectedAnswer
from ._http import Answer, AsyncTransport, Call, Rules, Transport
from ._json import decode
from ._types import (
    Analytics,
    AuditEntry,
    Cleanup,
    Delivery,
    DeliveryStatus,
    Enforcement,
    EventKind,
    ExplainedStatus,
    Granularity,
    Import,
    IncreaseRequest,
    Limit,
    Mode,
    Period,
    Plan,
    QuotaStatus,
    QuotaUpdate,
    Readiness,
    Recount,
    Report,
    RequestStatus,
    Settings,
    SettingsChange,
    Shadow,
    SystemStatus,
    TallySet,
    TemporaryOverride,
    Verdict,
    Webhook,
    WebhookChange,
    WebhookWithSecret,
)

P = ParamSpec("P")
T = TypeVar("T")

#: How many entries of a list are asked for at once.
_PAGE = 500
_CSV = "text/csv, application/json"


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where the next page begins."""

    next: str | None


class _Blocking:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class _Async:
    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


class _operation(Generic[P, T]):
    """A method that makes a call: of a blocking part it answers the result, of an async one it is awaited."""

    def __init__(self, call: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: _Blocking, owner: type | None = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, part: _Async, owner: type | None = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, part: _Blocking | _Async | None, owner: type | None = None) -> object:
        if part is None:
            return self
        transport = part._transport

        @wraps(self._call)
        def send(*args: P.args, **kwargs: P.kwargs) -> object:
            return transport.send(self._call(part, *args, **kwargs))

        return send


@dataclass(frozen=True, slots=True)
class _Pages(Generic[T]):
    """A list that is read a page at a time."""

    path: tuple[str, ...]
    query: Mapping[str, object]
    entries: Callable[[Answer], tuple[T, ...]]

    def page(self, cursor: str | None) -> Call[tuple[tuple[T, ...], str | None]]:
        def read(answer: Answer) -> tuple[tuple[T, ...], str | None]:
            following = decode(_Cursor, answer.body).next
            if following is not None and following == cursor:
                raise UnexpectedAnswer("the next page is the one that was just read", 200)
            return self.entries(answer), following

        return Call("GET", self.path, read, {**self.query, "limit": _PAGE, "cursor": cursor})


class _listing(Generic[P, T]):
    """A method that answers an iterator over all pages, which are read as they are needed."""

    def __init__(self, pages: Callable[Concatenate[Any, P], _Pages[T]]) -> None:
        self._pages = pages
        self.__doc__ = pages.__doc__

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: _Blocking, owner: type | None = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, part: _Async, owner: type | None = None) -> Callable[P, AsyncGenerator[T, None]]: ...
    def __get__(self, part: _Blocking | _Async | None, owner: type | None = None) -> object:
        if part is None:
            return self

        @wraps(self._pages)
        def read(*args: P.args, **kwargs: P.kwargs) -> object:
            pages = self._pages(part, *args, **kwargs)
            if isinstance(part, _Async):
                return _read_async(part._transport, pages)
            return _read(part._transport, pages)

        return read


def _read(transport: Transport, pages: _Pages[T]) -> Iterator[T]:
    cursor: str | None = None
    while True:
        entries, cursor = transport.send(pages.page(cursor))
        yield from entries
        if cursor is None:
            return


async def _read_async(transport: AsyncTransport, pages: _Pages[T]) -> AsyncGenerator[T, None]:
    cursor: str | None = None
    while True:
        entries, cursor = await transport.send(pages.page(cursor))
        for entry in entries:
            yield entry
        if cursor is None:
            return


class _streamed(Generic[P]):
    """A method that answers an iterator over the pieces of an answer without bound."""

    def __init__(self, call: Callable[Concatenate[Any, P], Call[None]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: _Blocking, owner: type | None = None) -> Callable[P, Iterator[bytes]]: ...
    @overload
    def __get__(self, part: _Async, owner: type | None = None) -> Callable[P, AsyncGenerator[bytes, None]]: ...
    def __get__(self, part: _Blocking | _Async | None, owner: type | None = None) -> object:
        if part is None:
            return self
        transport = part._transport

        @wraps(self._call)
        def read(*args: P.args, **kwargs: P.kwargs) -> object:
            return transport.stream(self._call(part, *args, **kwargs))

        return read


def _whole(kind: type[T]) -> Callable[[Answer], T]:
    """The answer, with the version that it has."""
    return lambda answer: decode(kind, {**answer.body, "etag": answer.etag})


def _field(kind: type[T], name: str) -> Callable[[Answer], T]:
    """One field of the answer."""

    def read(answer: Answer) -> T:
        body = answer.body
        if name not in body:
            raise UnexpectedAnswer(f"the answer has no `{name}`: is this the quota API?", 200)
        return decode(kind, body[name], name)

    return read


def _quota(kind: type[T]) -> Callable[[Answer], T]:
    """An answer with a `quota`, where limits stand among the other fields."""

    def read(answer: Answer) -> T:
        body = answer.body
        quota = body.get("quota")
        if isinstance(quota, dict):
            others = ("id", "workspaceId", "createdAt", "updatedAt")
            limits = {name: value for name, value in quota.items() if name not in others}
            body["quota"] = {**{name: quota[name] for name in others if name in quota}, "limits": limits}
        return decode(kind, {**body, "etag": answer.etag})

    return read


def _settings(answer: Answer) -> Settings:
    body = answer.body
    settings = body.get("settings")
    fields = settings if isinstance(settings, dict) else {}
    return decode(Settings, {**fields, "workspaceId": body.get("workspaceId"), "etag": answer.etag})


def _nothing(answer: Answer) -> None:
    """Nothing of it, as long as it is the API's."""
    _ = answer.body


def _given(**fields: object) -> dict[str, object]:
    """Those that are not `None`."""
    return {name: value for name, value in fields.items() if value is not None}


def _report(form: str, period: Period | None, day: date | None) -> dict[str, object]:
    return {"format": form, "period": period, "date": day}


class _WorkspaceCalls:
    """The quota of one workspace."""

    id: str

    def _path(self, *rest: str) -> tuple[str, ...]:
        return ("workspaces", self.id, "quota", *rest)

    @_operation
    def status(self) -> Call[QuotaStatus]:
        """Limits and usage."""
        return Call("GET", self._path(), _quota(QuotaStatus))

    @_operation
    def explain(self) -> Call[ExplainedStatus]:
        """The same, and why limits are what they are."""
        return Call("GET", self._path(), _quota(ExplainedStatus), {"explain": True})

    @_operation
    def set_limits(
        self, limits: Mapping[str, Limit], *, reason: str | None = None, if_match: str | None = None
    ) -> Call[QuotaUpdate]:
        """Sets limits by their fields: `{"maxSegments": 100}`, `None` for unlimited. Those left out stay. For admins."""
        body = {**limits, **_given(reason=reason)}
        return Call("PUT", self._path(), _quota(QuotaUpdate), body=body, if_match=if_match)

    @_operation
    def clear_limit(self, resource_type: str, *, if_match: str | None = None) -> Call[QuotaUpdate]:
        """Takes the workspace's own limit back: what comes after it applies. For admins."""
        return Call("DELETE", self._path("limits", resource_type), _quota(QuotaUpdate), if_match=if_match)

    @_operation
    def delete(self, *, if_match: str | None = None) -> Call[None]:
        """Deletes the record: the defaults are in force. For admins.

        What the workspace has of its own goes as well: its webhooks with their deliveries, contacts, thresholds that it
        had reached, and snapshots. Its rows, requests and audit log stay.
        """
        return Call("DELETE", self._path(), _nothing, if_match=if_match)

    @_operation
    def validate(self, resource_type: str, increment: int = 1, *, soft: bool = False) -> Call[Verdict]:
        """Whether `increment` rows more would be allowed: `QuotaExceeded` where not, or `allowed=False` if `soft`."""
        body = {"resourceType": resource_type, "increment": increment}
        return Call("POST", self._path("validate"), _whole(Verdict), {"soft": soft or None}, body)

    @_operation
    def recalculate(self, *, dry_run: bool = False) -> Call[Recount]:
        """Counts the rows anew. With `dry_run`, it is only told what would be corrected. For admins."""
        return Call("POST", self._path("recalculate"), _whole(Recount), {"dryRun": dry_run or None})

    @_operation
    def set_tally(self, rows: Mapping[str, int], *, reason: str | None = None) -> Call[TallySet]:
        """Sets how many rows there are of types that the ledger alone counts: `{"segments": 45}`. For admins.

        All types that are named are set, or none: one that is counted otherwise is an `InvalidRequest`.
        """
        body = {"rows": rows, **_given(reason=reason)}
        return Call("PUT", self._path("tally"), _whole(TallySet), body=body)

    @_operation
    def cleanup(self, resource_type: str, *, dry_run: bool = True, batch: int | None = None) -> Call[Cleanup]:
        """Tells which rows are above the limit, or removes them, `batch` in one transaction. For admins."""
        body = {"resourceType": resource_type, "dryRun": dry_run, **_given(batch=batch)}
        return Call("POST", self._path("cleanup"), _whole(Cleanup), body=body)

    @_operation
    def settings(self) -> Call[Settings]:
        """What limits come from, beside the workspace's own."""
        return Call("GET", self._path("settings"), _settings)

    @_operation
    def change_settings(self, change: SettingsChange, *, if_match: str | None = None) -> Call[Settings]:
        """Changes the settings that are named. For admins."""
        return Call("PUT", self._path("settings"), _settings, body=change, if_match=if_match)

    @_operation
    def overrides(self) -> Call[tuple[TemporaryOverride, ...]]:
        """Limits that are in force for a time, now or later."""
        return Call("GET", self._path("overrides"), _field(tuple[TemporaryOverride, ...], "overrides"))

    @_operation
    def add_override(
        self,
        resource_type: str,
        limit: Limit,
        *,
        expires_at: datetime,
        reason: str,
        starts_at: datetime | None = None,
    ) -> Call[TemporaryOverride]:
        """Puts a limit in force for a time, from now if nothing else is said. For admins."""
        body = {
            "resourceType": resource_type,
            "limit": limit,
            "expiresAt": expires_at,
            "reason": reason,
            **_given(startsAt=starts_at),
        }
        return Call("POST", self._path("overrides"), _field(TemporaryOverride, "override"), body=body)

    @_operation
    def end_override(self, id: str) -> Call[QuotaUpdate]:
        """Ends an override before its time. For admins."""
        return Call("DELETE", self._path("overrides", id), _quota(QuotaUpdate))

    @_listing
    def requests(self, *, status: RequestStatus | None = None) -> _Pages[IncreaseRequest]:
        """Requests for more, the newest first."""
        return _Pages(self._path("requests"), {"status": status}, _field(tuple[IncreaseRequest, ...], "requests"))

    @_operation
    def make_request(self, resource_type: str, amount: int, *, reason: str) -> Call[IncreaseRequest]:
        """Asks for `amount` rows more."""
        body = {"resourceType": resource_type, "amount": amount, "reason": reason}
        return Call("POST", self._path("requests"), _field(IncreaseRequest, "request"), body=body)

    @_operation
    def approve_request(
        self, id: str, *, note: str | None = None, expires_at: datetime | None = None
    ) -> Call[IncreaseRequest]:
        """Raises the limit by what was asked for, for good or until `expires_at`. For admins."""
        body = _given(note=note, expiresAt=expires_at)
        return Call("POST", self._path("requests", id, "approve"), _field(IncreaseRequest, "request"), body=body)

    @_operation
    def deny_request(self, id: str, *, note: str | None = None) -> Call[IncreaseRequest]:
        """For admins."""
        body = _given(note=note)
        return Call("POST", self._path("requests", id, "deny"), _field(IncreaseRequest, "request"), body=body)

    @_operation
    def withdraw_request(self, id: str) -> Call[IncreaseRequest]:
        """For who made it, and for admins."""
        return Call("POST", self._path("requests", id, "withdraw"), _field(IncreaseRequest, "request"))

    @_listing
    def audit(
        self, *, resource_type: str | None = None, since: datetime | None = None, until: datetime | None = None
    ) -> _Pages[AuditEntry]:
        """All changes, the newest first. For admins."""
        query = {"resourceType": resource_type, "since": since, "until": until}
        return _Pages(self._path("audit"), query, _field(tuple[AuditEntry, ...], "entries"))

    @_operation
    def analytics(
        self,
        *,
        start_date: date | None = None,
        end_date: date | None = None,
        granularity: Granularity | None = None,
    ) -> Call[Analytics]:
        """Usage over time (both dates are inclusive), and when limits are expected to be reached."""
        query = {"startDate": start_date, "endDate": end_date, "granularity": granularity}
        return Call("GET", self._path("analytics"), _whole(Analytics), query)

    @_operation
    def report(self, *, period: Period | None = None, day: date | None = None) -> Call[Report]:
        """The report of the period that holds `day`, which is today if nothing else is said."""
        query = _report("json", period, day)
        return Call("GET", self._path("report"), _whole(Report), query)

    @_operation
    def report_csv(self, *, period: Period | None = None, day: date | None = None) -> Call[str]:
        """The same as CSV."""
        query = _report("csv", period, day)
        return Call("GET", self._path("report"), lambda answer: answer.text, query, accept=_CSV)

    @_operation
    def contacts(self) -> Call[tuple[str, ...]]:
        """The e-mail addresses of the workspace's admins. For admins."""
        return Call("GET", self._path("contacts"), _field(tuple[str, ...], "emails"))

    @_operation
    def set_contacts(self, emails: Sequence[str]) -> Call[tuple[str, ...]]:
        """For admins."""
        body = {"emails": list(emails)}
        return Call("PUT", self._path("contacts"), _field(tuple[str, ...], "emails"), body=body)


class _PlanCalls:
    """Limits that many workspaces share. To change them is for admins of all workspaces."""

    @_operation
    def list(self) -> Call[tuple[Plan, ...]]:
        return Call("GET", ("plans",), _field(tuple[Plan, ...], "plans"))

    @_operation
    def get(self, name: str) -> Call[Plan]:
        return Call("GET", ("plans", name), _field(Plan, "plan"))

    @_operation
    def put(self, name: str, limits: Mapping[str, Limit], *, if_match: str | None = None) -> Call[Plan]:
        """Makes the plan, or changes it: it then has these limits, and no others."""
        return Call("PUT", ("plans", name), _field(Plan, "plan"), body={"limits": limits}, if_match=if_match)

    @_operation
    def delete(self, name: str) -> Call[None]:
        return Call("DELETE", ("plans", name), _nothing)


class _WebhookCalls:
    """Endpoints that are told when limits come near. For admins of all workspaces."""

    def _path(self, *rest: str) -> tuple[str, ...]:
        return ("system", "webhooks", *rest)

    @_operation
    def list(self) -> Call[tuple[Webhook, ...]]:
        return Call("GET", self._path(), _field(tuple[Webhook, ...], "webhooks"))

    @_operation
    def add(
        self,
        url: str,
        *,
        workspace_id: str | None = None,
        events: Sequence[EventKind] | None = None,
        description: str | None = None,
        active: bool | None = None,
        secret: str | None = None,
    ) -> Call[WebhookWithSecret]:
        """For the events of one workspace, or of all."""
        body = {
            "url": url,
            **_given(workspaceId=workspace_id, events=events, description=description, active=active, secret=secret),
        }
        return Call("POST", self._path(), _field(WebhookWithSecret, "webhook"), body=body)

    @_operation
    def get(self, id: str) -> Call[Webhook]:
        return Call("GET", self._path(id), _field(Webhook, "webhook"))

    @_operation
    def change(self, id: str, change: WebhookChange) -> Call[Webhook]:
        return Call("PUT", self._path(id), _field(Webhook, "webhook"), body=change)

    @_operation
    def delete(self, id: str) -> Call[None]:
        return Call("DELETE", self._path(id), _nothing)

    @_operation
    def rotate_secret(self, id: str, secret: str | None = None) -> Call[WebhookWithSecret]:
        """A new secret; the one before signs for a day more."""
        body = _given(secret=secret)
        return Call("POST", self._path(id, "secret"), _field(WebhookWithSecret, "webhook"), body=body)

    @_operation
    def test(self, id: str) -> Call[str]:
        """Sends the endpoint an event `quota.test`; answers its id."""
        return Call("POST", self._path(id, "test"), _field(str, "notice"))

    @_listing
    def deliveries(self, id: str, *, status: DeliveryStatus | None = None) -> _Pages[Delivery]:
        """What became of its notices, the newest first."""
        return _Pages(self._path(id, "deliveries"), {"status": status}, _field(tuple[Delivery, ...], "deliveries"))

    @_operation
    def replay(self, id: str, delivery: str) -> Call[None]:
        """Sends a notice once more."""
        return Call("POST", self._path(id, "deliveries", delivery, "replay"), _nothing)


class _SystemCalls:
    """What concerns all workspaces. For admins of all, but for `health` and `enforcement`."""

    @_operation
    def health(self) -> Call[None]:
        """`Unavailable` where the store of the quota doesn't answer."""
        return Call("GET", ("system", "health"), _nothing)

    @_operation
    def status(self) -> Call[SystemStatus]:
        """How the set-up stands: its tables, and the processes that enforce limits."""
        return Call("GET", ("system", "quota-status"), _whole(SystemStatus))

    @_operation
    def enforcement(self) -> Call[Enforcement]:
        return Call("GET", ("system", "config", "quota-enforcement"), _whole(Enforcement))

    @_operation
    def set_enforcement(
        self, mode: Mode | None = None, *, types: Mapping[str, Mode | None] | None = None
    ) -> Call[Enforcement]:
        """Changes the mode of all, or those of some resource types, or both."""
        body = _given(mode=mode, types=types)
        return Call("PUT", ("system", "config", "quota-enforcement"), _whole(Enforcement), body=body)

    @_operation
    def set_limits(
        self, workspaces: Sequence[str], limits: Mapping[str, Limit], *, reason: str | None = None
    ) -> Call[int]:
        """Sets limits of many workspaces, all or none."""
        body = {"workspaces": list(workspaces), "limits": limits, **_given(reason=reason)}
        return Call("PUT", ("system", "quotas"), _field(int, "updated"), body=body)

    @_operation
    def import_limits(
        self,
        *,
        percent: int | None = None,
        floor: int | None = None,
        allow_lowering: bool = False,
        apply: bool = False,
        batch: int | None = None,
        name: str | None = None,
        after: str | None = None,
    ) -> Call[Import]:
        """Proposes limits by what workspaces have, or sets them: some thousands with each call, until `summary.done`."""
        body = {
            "allowLowering": allow_lowering,
            "apply": apply,
            **_given(percent=percent, floor=floor, batch=batch, name=name, after=after),
        }
        return Call("POST", ("system", "quota-import"), _whole(Import), body=body)

    @_operation
    def readiness(self, worst: int | None = None) -> Call[Readiness]:
        """Whom `enforce` would refuse, with the `worst` few of each type."""
        return Call("GET", ("system", "quota-readiness"), _whole(Readiness), {"limit": worst})

    @_operation
    def shadow(self, workspaces: int | None = None) -> Call[Shadow]:
        """What the limits that are tried out would have refused, in the process that answers."""
        return Call("GET", ("system", "quota-shadow"), _whole(Shadow), {"limit": workspaces})

    @_operation
    def start_shadow(self, limits: Mapping[str, Limit], workspaces: Sequence[str] | None = None) -> Call[Shadow]:
        """Tries other limits out, for some workspaces or for all."""
        body = {"limits": limits, **_given(workspaces=None if workspaces is None else [*workspaces])}
        return Call("PUT", ("system", "quota-shadow"), _whole(Shadow), body=body)

    @_operation
    def stop_shadow(self) -> Call[Shadow]:
        return Call("DELETE", ("system", "quota-shadow"), _whole(Shadow))

    @_listing
    def requests(self, *, status: RequestStatus | None = None) -> _Pages[IncreaseRequest]:
        """Requests for more of all workspaces, the newest first."""
        return _Pages(("system", "quota-requests"), {"status": status}, _field(tuple[IncreaseRequest, ...], "requests"))

    @_listing
    def audit(
        self,
        *,
        workspace_id: str | None = None,
        resource_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> _Pages[AuditEntry]:
        """All changes, the newest first."""
        query = {"workspaceId": workspace_id, "resourceType": resource_type, "since": since, "until": until}
        return _Pages(("system", "quota-audit"), query, _field(tuple[AuditEntry, ...], "entries"))

    @_streamed
    def report_csv(self, *, period: Period | None = None, day: date | None = None) -> Call[None]:
        """The report on all workspaces as CSV, in pieces, of which each has to come within the time-out."""
        query = _report("csv", period, day)
        return Call("GET", ("system", "quota-report"), _nothing, query, accept=_CSV)


class Workspace(_WorkspaceCalls, _Blocking):
    """The quota of one workspace."""

    def __init__(self, transport: Transport, id: str) -> None:
        super().__init__(transport)
        self.id = id


class AsyncWorkspace(_WorkspaceCalls, _Async):
    """The quota of one workspace."""

    def __init__(self, transport: AsyncTransport, id: str) -> None:
        super().__init__(transport)
        self.id = id


class Plans(_PlanCalls, _Blocking):
    """Limits that many workspaces share. To change them is for admins of all workspaces."""


class AsyncPlans(_PlanCalls, _Async):
    """Limits that many workspaces share. To change them is for admins of all workspaces."""


class Webhooks(_WebhookCalls, _Blocking):
    """Endpoints that are told when limits come near. For admins of all workspaces."""


class AsyncWebhooks(_WebhookCalls, _Async):
    """Endpoints that are told when limits come near. For admins of all workspaces."""


class System(_SystemCalls, _Blocking):
    """What concerns all workspaces. For admins of all, but for `health` and `enforcement`."""


class AsyncSystem(_SystemCalls, _Async):
    """What concerns all workspaces. For admins of all, but for `health` and `enforcement`."""


_TIMEOUT = 10.0
_RETRIES = 2
_MAX_BODY = 8 * 1024 * 1024


class QuotaClient:
    """The client of one API. Its methods raise a `QuotaError`; what can't be sent at all is a `ValueError`.

    `base_url` is where the API is mounted, such as `https://example.com/api`. A call takes at most `timeout` seconds, with its
    retries; a GET is tried again `retries` times. `max_body` bounds answers, in bytes. `http` is a client to send with, for
    example with certificates of one's own; it stays open. It may be used by several threads::

        with QuotaClient("https://example.com/api", token) as client:
            usage = client.workspace("acme").status().usage
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: float = _TIMEOUT,
        retries: int = _RETRIES,
        max_body: int = _MAX_BODY,
        http: httpx.Client | None = None,
    ) -> None:
        self._transport = Transport(Rules.of(base_url, token, timeout, retries, max_body), http)
        self.plans = Plans(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.system = System(self._transport)

    def workspace(self, id: str) -> Workspace:
        """One workspace. Nothing is sent yet."""
        return Workspace(self._transport, id)

    def close(self) -> None:
        """Closes its connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncQuotaClient:
    """The same with `await`, for asyncio and trio::

        async with AsyncQuotaClient("https://example.com/api", token) as client:
            usage = (await client.workspace("acme").status()).usage
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: float = _TIMEOUT,
        retries: int = _RETRIES,
        max_body: int = _MAX_BODY,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._transport = AsyncTransport(Rules.of(base_url, token, timeout, retries, max_body), http)
        self.plans = AsyncPlans(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.system = AsyncSystem(self._transport)

    def workspace(self, id: str) -> AsyncWorkspace:
        """One workspace. Nothing is sent yet."""
        return AsyncWorkspace(self._transport, id)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

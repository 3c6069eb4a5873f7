"""The shapes of the API, as its contract has them, with Python's spelling of names."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeAlias, TypedDict

#: How many rows there may be: 0 to 2^63 - 1, or `None` for any number.
Limit: TypeAlias = int | None
Mode: TypeAlias = Literal["off", "warn", "enforce", "strict"]
RequestStatus: TypeAlias = Literal["pending", "approved", "denied", "withdrawn"]
Granularity: TypeAlias = Literal["hour", "day", "week", "month"]
Period: TypeAlias = Literal["daily", "weekly", "monthly"]
EventKind: TypeAlias = Literal["quota.warning", "quota.exceeded"]
DeliveryStatus: TypeAlias = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    id: str
    workspace_id: str
    #: By their fields, such as `maxSegments`.
    limits: dict[str, Limit]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitStep:
    """Something that says what a limit is. What belongs to another `source` is `None`."""

    source: Literal["temporaryOverride", "override", "plan", "inherited", "default"]
    limit: Limit
    id: str | None = None
    expires_at: datetime | None = None
    reason: str | None = None
    plan: str | None = None
    parent: str | None = None
    percent: int | None = None
    parent_limit: Limit = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    workspace_id: str
    cap: Limit
    exceeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GraceLimit:
    limit: Limit
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a limit is what it is."""

    limit: Limit
    source: Literal["temporaryOverride", "override", "plan", "inherited", "default"]
    #: All that say something, the one in force first.
    trace: tuple[LimitStep, ...]
    #: Those on the workspace and on all above it.
    caps: tuple[Cap, ...]
    grace: GraceLimit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaStatus:
    quota: Quota
    #: By resource type, such as `segments`.
    usage: dict[str, int]
    #: Whole percent of the limit, rounded down; 0 without a limit.
    percentages: dict[str, int]
    #: To be sent back as `if_match`.
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedStatus(QuotaStatus):
    explain: dict[str, Explanation]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUpdate:
    quota: Quota
    etag: str
    #: Which of the new limits are below usage, or above a cap. They are in force.
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a creation would pass. Advice: nothing is reserved."""

    allowed: bool
    current_usage: int
    limit: Limit
    #: Before the creation; `None` without a limit.
    remaining: int | None
    percent_used: int
    #: `True` and `allowed` in the modes `off` and `warn`.
    would_exceed: bool
    #: Units of requests in flight, where only these stand in the way.
    reserved: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    resource_type: str
    cached: int
    actual: int
    #: `actual` less `cached`.
    drift: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    workspace_id: str
    usage: dict[str, int]
    corrections: tuple[Correction, ...]
    recalculated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TallySet:
    """Rows of types that the ledger alone counts."""

    workspace_id: str
    #: What the ledger had.
    before: dict[str, int]
    #: What it has now.
    rows: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    enabled: bool
    #: How much over the limit.
    percentage: int
    #: In seconds, from the first overrun.
    duration: int
    #: The resource types that have it.
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraceUse:
    started_at: datetime
    ends_at: datetime
    percentage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryOverride:
    id: str
    resource_type: str
    limit: Limit
    starts_at: datetime
    expires_at: datetime
    reason: str
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    workspace_id: str
    plan: str | None
    parent: str | None
    #: In percent of the parent's limit.
    shares: dict[str, int]
    #: Limits on the workspace and all below it together.
    caps: dict[str, Limit]
    #: `None` for that of all.
    mode: Mode | None
    modes: dict[str, Mode]
    grace: Grace | None
    overrides: tuple[TemporaryOverride, ...]
    etag: str
    #: Those that have begun.
    grace_uses: dict[str, GraceUse] = field(default_factory=dict)


class SettingsChange(TypedDict, total=False):
    """What is left out stays as it is; `None` takes back."""

    plan: str | None
    parent: str | None
    shares: dict[str, int | None]
    caps: dict[str, Limit]
    mode: Mode | None
    modes: dict[str, Mode | None]
    grace: Grace | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncreaseRequest:
    """A wish for a higher limit."""

    id: str
    workspace_id: str
    resource_type: str
    #: By how many rows.
    amount: int
    reason: str
    status: RequestStatus
    requested_by: str
    created_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    note: str | None
    #: `None` for good.
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change. What `old` and `new` are, depends on `action`."""

    seq: int
    at: datetime
    actor: str
    origin: str
    #: Such as `limit_set`.
    action: str
    workspace_id: str | None
    resource_type: str | None
    old: Any
    new: Any
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    name: str
    version: int
    limits: dict[str, Limit]
    created_at: datetime
    updated_at: datetime

    @property
    def etag(self) -> str:
        """To be sent back as `if_match`."""
        return f'"{self.version}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleanup:
    resource_type: str
    policy: Literal["report", "archive", "delete"]
    dry_run: bool
    #: Rows above the limit before.
    above: int
    removed: int
    #: The ids of those that were removed, or would be, the newest first; at most a thousand.
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendPoint:
    #: Where the bucket begins: a day, or, by the hour, a time.
    date: str
    usage: dict[str, int]
    #: Creations that were refused in it, by the types of which any were.
    refusals: dict[str, int] = field(default_factory=dict)
    #: The types of which nothing was read in it: they have what was known before.
    carried: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When a limit is expected to be reached; `reason` says why it can't be told, where it can't."""

    projected_date: date | None
    days_until_limit: int | None
    #: Per day, as a part of current usage.
    growth_rate: float | None
    earliest: date | None = None
    latest: date | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Analytics:
    workspace_id: str
    #: Both dates are inclusive.
    start_date: date
    end_date: date
    granularity: Granularity
    #: In which days begin and end: `UTC`.
    time_zone: str
    trends: tuple[TrendPoint, ...]
    forecast: dict[str, Forecast]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """What became of one resource type of a workspace. What isn't known is `None`."""

    workspace_id: str
    resource_type: str
    period: Period
    start: date
    end: date
    min: int | None
    max: int | None
    last: int | None
    #: Also `None` where there is no limit: `percent` is then 0.
    limit: Limit
    percent: int | None
    refusals: int | None
    grace_uses: int | None
    limit_changes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    period: Period
    start: date
    end: date
    #: In which days begin and end: `UTC`.
    time_zone: str
    rows: tuple[ReportRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    workspaces: int
    set: int
    raised: int
    lowered: int
    kept: int
    invalid: int
    invalid_ids: tuple[str, ...]
    #: To go on where this call ended.
    after: str | None
    #: Call again until it is.
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    workspace_id: str
    resource_type: str
    usage: int
    existing: Limit | Literal["unset"]
    proposed: Limit
    taken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    summary: ImportSummary
    proposals: tuple[Proposal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FullWorkspace:
    workspace_id: str
    usage: int
    limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeReadiness:
    full: int
    over: int
    worst: tuple[FullWorkspace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whom `enforce` would refuse."""

    workspaces: int
    would_refuse: bool
    types: dict[str, TypeReadiness]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowWorkspace:
    workspace_id: str
    resource_type: str
    refusals: int
    usage: int
    limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What other limits would have refused."""

    since: datetime
    evaluated: int
    would_refuse: int
    workspaces: tuple[ShadowWorkspace, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaVersions:
    #: That which the database has.
    applied: int
    #: The newest one that the program knows.
    known: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    kind: Literal["sqlite", "postgres", "other"]
    #: `None` where the tables have no versions.
    schema: SchemaVersions | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeConfig:
    limit_field: str
    default_limit: Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """What a process enforces: replicas that don't have the same don't limit the same."""

    version: str
    #: The newest version of the tables that it knows.
    schema: int | None
    mode: Mode
    #: Of the resource types that have a mode of their own.
    modes: dict[str, Mode]
    workspace_format: Literal["verbatim", "lowercase", "uuid"]
    types: dict[str, TypeConfig]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A process that enforces limits. Its times are by the database's clock."""

    #: `None` where there is one process.
    id: str | None
    #: It is the one that answers.
    this: bool
    joined_at: datetime | None
    seen_at: datetime | None
    #: `None` where it doesn't tell.
    config: ReplicaConfig | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemStatus:
    """How a set-up stands."""

    store: StoreStatus
    #: Where units are granted.
    ledger: Literal["process", "postgres"]
    promise: Literal["exact", "bounded"]
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    mode: Mode
    source: Literal["default", "environment", "code", "runtime"]
    promise: Literal["exact", "bounded"]
    #: Of the resource types that have a mode of their own.
    types: dict[str, Mode] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    id: str
    #: `None` for all workspaces.
    workspace_id: str | None
    url: str
    events: tuple[EventKind, ...]
    description: str
    status: Literal["active", "disabled"]
    #: Since the last delivery that succeeded.
    failures: int
    paused_until: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookWithSecret(Webhook):
    """The only shape that has the secret: keep it."""

    secret: str = field(repr=False)


class WebhookChange(TypedDict, total=False):
    """What is left out stays as it is."""

    url: str
    events: list[EventKind]
    description: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    at: datetime
    took_ms: int
    ok: bool
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    id: str
    #: The `webhook-id` of all tries.
    notice: str
    status: DeliveryStatus
    attempts: int
    next_at: datetime | None
    log: tuple[Attempt, ...]
    body: Any

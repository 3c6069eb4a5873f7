"""How calls fail."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any, Final, Protocol

from ._json import Mismatch, decode


class QuotaError(Exception):
    """What all errors of this package are."""

    def __str__(self) -> str:
        # The other arguments are there for `pickle`, which makes an exception anew from them.
        return str(self.args[0])


class Unreachable(QuotaError):
    """The API could not be reached, or the connection broke before the answer was there."""


class TimedOut(QuotaError):
    """There was no answer within the client's `timeout`. Whether a change was made is not known."""


class UnexpectedAnswer(QuotaError):
    """Something answered, but not as the API does: a proxy's page, a redirect, another service."""

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message, status, retry_after)
        self.status: Final = status
        #: Seconds after which the server says that trying again may help.
        self.retry_after: Final = retry_after


class ApiError(QuotaError):
    """The API refused. `code` is the contract's, such as `INVALID_REQUEST`; the message says what to write instead."""

    def __init__(
        self, message: str, status: int, code: str, details: Any = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status, code, details, retry_after)
        self.status: Final = status
        self.code: Final = code
        #: What belongs to the code, if anything.
        self.details = details
        #: Seconds after which trying again may help, where it may.
        self.retry_after: Final = retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """By which numbers a creation was refused."""

    resource_type: str
    #: Rows that exist.
    current_usage: int
    limit: int
    requested: int
    #: What is left, beside rows and requests in flight.
    remaining: int
    #: Units of requests that are in flight: only these stand in the way, and `retry_after` is set.
    reserved: int | None = None
    #: The workspace above, whose cap is reached.
    capped_by: str | None = None


class QuotaExceeded(ApiError):
    """The limit is reached (429). Nothing was created."""

    details: Exceeded


class InvalidRequest(ApiError):
    """What was sent makes no sense, to this API or to this set-up of it (400, 405, 413)."""


class Unauthenticated(ApiError):
    """No token, or one that nobody knows (401)."""


class Forbidden(ApiError):
    """Not for this token: another workspace, or for admins (403)."""


class NotFound(ApiError):
    """No such record, plan, override, request or endpoint (404)."""


class PreconditionFailed(ApiError):
    """`if_match` names another version, or what was to be decided or deleted is decided or in use (412)."""


class Unavailable(ApiError):
    """The quota can't be told now (503)."""


_BY_CODE: dict[str, type[ApiError]] = {
    "INVALID_REQUEST": InvalidRequest,
    "INVALID_RESOURCE_TYPE": InvalidRequest,
    "WORKSPACE_MISMATCH": InvalidRequest,
    "PAYLOAD_TOO_LARGE": InvalidRequest,
    "METHOD_NOT_ALLOWED": InvalidRequest,
    "UNAUTHENTICATED": Unauthenticated,
    "INSUFFICIENT_PERMISSIONS": Forbidden,
    "NOT_FOUND": NotFound,
    "QUOTA_NOT_FOUND": NotFound,
    "PRECONDITION_FAILED": PreconditionFailed,
    "QUOTA_UNAVAILABLE": Unavailable,
}


class Response(Protocol):
    """What `error_from` needs of a response; those of httpx and requests have it."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def text(self) -> str: ...


def error_from(response: Response) -> ApiError | UnexpectedAnswer:
    """The error that an answer of the host's own routes stands for, where they are behind a `QuotaLayer`.

    It is `QuotaExceeded` for a creation that is one too many::

        response = httpx.post(f"{url}/workspaces/acme/segments", json=segment)
        if response.is_error:
            raise error_from(response)
    """
    return error_of(response.status_code, response.headers, response.text)


def error_of(status: int, headers: Mapping[str, str], text: str) -> ApiError | UnexpectedAnswer:
    """What an answer says that is no success."""
    retry_after = _retry_after(headers.get("retry-after"))
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    body = parsed if isinstance(parsed, dict) else {}
    if status == 503 and body == {"status": "unavailable"}:
        # How `health` says so.
        return Unavailable("the store of the quota does not answer", status, "QUOTA_UNAVAILABLE", None, retry_after)
    code, message = body.get("error"), body.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        shown = excerpt(text)
        said = f"{headers.get('content-type', 'no content type')}: {shown}" if shown else "an empty body"
        hint = "; is `base_url` where the API is mounted, such as https://example.com/api?" if status == 404 else ""
        message = f"the answer is not the quota API's: status {status}, {said}{hint}"
        return UnexpectedAnswer(message, status, retry_after)
    details = body.get("details")
    if code == "QUOTA_EXCEEDED":
        try:
            return QuotaExceeded(message, status, code, decode(Exceeded, details), retry_after)
        except Mismatch:
            pass
    return _BY_CODE.get(code, ApiError)(message, status, code, details, retry_after)


def _retry_after(value: str | None) -> float | None:
    """`Retry-After` in seconds: it is a number of them, or a date."""
    if value is None:
        return None
    if re.fullmatch("[0-9]{1,10}", value.strip()):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date in the form of RFC 850 has no zone that Python knows; all of HTTP's are in UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, float(ceil((date - datetime.now(UTC)).total_seconds())))


def excerpt(text: str) -> str:
    """The beginning of a body, in one line."""
    line = " ".join(text[:1000].split())
    return f"{line[:200]}…" if len(line) > 200 else line

"""One call over HTTP, with and without `await`: time-out, retries, and what is made of the answer."""

import json
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlsplit

import anyio
import httpx

from ._errors import ApiError, QuotaError, TimedOut, UnexpectedAnswer, Unreachable, error_of, excerpt
from ._json import Mismatch, encode, utc

T = TypeVar("T")

#: The longest pause before a retry where the server names none; it doubles from the first of them.
_FIRST_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    etag: str
    content_type: str

    @property
    def body(self) -> dict[str, Any]:
        """Its fields, where it is a JSON object."""
        try:
            body = json.loads(self.text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            message = f"the answer is no JSON object: status 200, {self.content_type}: {excerpt(self.text)}"
            raise UnexpectedAnswer(message, 200)
        return body


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What is to be sent, and what is made of the answer."""

    method: str
    #: Its segments, not encoded yet.
    path: tuple[str, ...]
    read: Callable[[Answer], T]
    query: Mapping[str, object] = field(default_factory=dict)
    body: object = None
    if_match: str | None = None
    accept: str = "application/json"

    def result(self, answer: Answer) -> T:
        try:
            return self.read(answer)
        except Mismatch as mismatch:
            raise UnexpectedAnswer(f"{mismatch}: is this the quota API?", 200) from None


@dataclass(frozen=True, slots=True)
class Rules:
    """What both transports go by."""

    base_url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    retries: int
    max_body: int

    @classmethod
    def of(cls, base_url: str, token: str | None, timeout: float, retries: int, max_body: int) -> "Rules":
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            # Without the token itself: messages end up in logs.
            raise ValueError("`token` has characters that no token has: spaces, line breaks, or none at all")
        for name, value in (("timeout", timeout), ("max_body", max_body)):
            if not value > 0:
                raise ValueError(f"`{name}` is a number above 0")
        if retries < 0:
            raise ValueError("`retries` is an integer of 0 or more")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return cls(_base(base_url), headers, timeout, retries, max_body)

    def request(self, build: Callable[..., httpx.Request], call: Call[Any]) -> httpx.Request:
        """The request. What can't be sent at all is a `ValueError`."""
        url = "/".join((self.base_url, *(_segment(part) for part in call.path)))
        params = {name: _parameter(value) for name, value in call.query.items() if value is not None}
        headers = {"accept": call.accept, **self.headers}
        if call.if_match is not None:
            headers["if-match"] = call.if_match
        content = None
        if call.body is not None:
            headers["content-type"] = "application/json"
            content = encode(call.body).encode()
        return build(call.method, url, params=params or None, headers=headers, content=content)

    def pause(self, request: httpx.Request, error: Exception, attempt: int, left: float) -> float | None:
        """How long to wait before the next try; `None` where there is none."""
        # All but a GET may have changed something. A PUT with `If-Match` can't be made twice, but if its answer was lost,
        # its retry would be answered 412, as though somebody else had been there.
        if request.method != "GET" or attempt >= self.retries:
            return None
        # Not all at once: who was cut off together would come back together.
        pause = _FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1)
        if isinstance(error, ApiError | UnexpectedAnswer) and error.status == 503 and error.retry_after is not None:
            pause += error.retry_after
        elif not isinstance(error, Unreachable):
            return None
        return pause if pause < left else None

    def too_large(self, status: int) -> UnexpectedAnswer:
        message = f"the answer has more than {self.max_body} bytes: ask for less, or set `max_body`"
        return UnexpectedAnswer(message, status)

    def timed_out(self) -> TimedOut:
        return TimedOut(f"no answer within {self.timeout:g} s")

    @contextmanager
    def failures(self, request: httpx.Request) -> Iterator[None]:
        """Tells what goes wrong within it by this package's errors."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise self.timed_out() from error
        except httpx.DecodingError as error:
            raise UnexpectedAnswer(f"the answer's encoding can't be read: {error}", 200) from error
        except httpx.TransportError as error:
            origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
            raise Unreachable(f"no answer from {origin}: {str(error) or type(error).__name__}") from error


def _answer(response: httpx.Response, content: bytes) -> Answer:
    """What is made of a response; an error where it is no success."""
    status, headers = response.status_code, response.headers
    text = content.decode(errors="replace")
    if 300 <= status < 400:
        to = f" to {excerpt(headers['location'])}" if "location" in headers else ""
        message = (
            f"the answer is a redirect{to}, which is not followed, since the token would go along: "
            "set `base_url` to where the API is"
        )
        raise UnexpectedAnswer(message, status)
    if not response.is_success:
        raise error_of(status, headers, text)
    return Answer(text, headers.get("etag", ""), headers.get("content-type", "no content type"))


class Transport:
    def __init__(self, rules: Rules, http: httpx.Client | None) -> None:
        self._rules = rules
        self._own = http is None
        self._http = httpx.Client() if http is None else http

    def close(self) -> None:
        if self._own:
            self._http.close()

    def send(self, call: Call[T]) -> T:
        return call.result(self._tries(call, self._read))

    def stream(self, call: Call[Any]) -> Iterator[bytes]:
        """The pieces of an answer, each of which comes within the time-out."""
        response = self._tries(call, self._begun)
        try:
            with self._rules.failures(response.request):
                yield from response.iter_bytes()
        finally:
            response.close()

    def _tries(self, call: Call[Any], read: Callable[[httpx.Response, float], T]) -> T:
        request = self._rules.request(self._http.build_request, call)
        end = time.monotonic() + self._rules.timeout
        attempt = 0
        while True:
            try:
                return self._attempt(request, end, read)
            except QuotaError as error:
                pause = self._rules.pause(request, error, attempt, end - time.monotonic())
                if pause is None:
                    raise
            time.sleep(pause)
            attempt += 1

    def _attempt(self, request: httpx.Request, end: float, read: Callable[[httpx.Response, float], T]) -> T:
        with self._rules.failures(request):
            left = max(end - time.monotonic(), 0.001)
            request.extensions = {"timeout": httpx.Timeout(left).as_dict()}
            response = self._http.send(request, stream=True, auth=None, follow_redirects=False)
            try:
                return read(response, end)
            except BaseException:
                response.close()
                raise

    def _read(self, response: httpx.Response, end: float) -> Answer:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > self._rules.max_body:
                raise self._rules.too_large(response.status_code)
            # Each piece may come in time, and all of them not.
            if time.monotonic() > end:
                raise self._rules.timed_out()
        response.close()
        return _answer(response, bytes(content))

    def _begun(self, response: httpx.Response, end: float) -> httpx.Response:
        if not response.is_success:
            self._read(response, end)
        return response


class AsyncTransport:
    def __init__(self, rules: Rules, http: httpx.AsyncClient | None) -> None:
        self._rules = rules
        self._own = http is None
        self._http = httpx.AsyncClient() if http is None else http

    async def close(self) -> None:
        if self._own:
            await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        return call.result(await self._tries(call, self._read))

    async def stream(self, call: Call[Any]) -> AsyncGenerator[bytes, None]:
        """The pieces of an answer, each of which comes within the time-out."""
        response = await self._tries(call, self._begun)
        try:
            with self._rules.failures(response.request):
                async for chunk in response.aiter_bytes():
                    yield chunk
        finally:
            await response.aclose()

    async def _tries(self, call: Call[Any], read: Callable[[httpx.Response], Awaitable[T]]) -> T:
        request = self._rules.request(self._http.build_request, call)
        attempt = 0
        try:
            with anyio.fail_after(self._rules.timeout) as scope:
                while True:
                    try:
                        return await self._attempt(request, read)
                    except QuotaError as error:
                        left = scope.deadline - anyio.current_time()
                        pause = self._rules.pause(request, error, attempt, left)
                        if pause is None:
                            raise
                    await anyio.sleep(pause)
                    attempt += 1
        except TimeoutError as error:
            raise self._rules.timed_out() from error

    async def _attempt(self, request: httpx.Request, read: Callable[[httpx.Response], Awaitable[T]]) -> T:
        with self._rules.failures(request):
            request.extensions = {"timeout": httpx.Timeout(self._rules.timeout).as_dict()}
            response = await self._http.send(request, stream=True, auth=None, follow_redirects=False)
            try:
                return await read(response)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
                raise

    async def _read(self, response: httpx.Response) -> Answer:
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > self._rules.max_body:
                raise self._rules.too_large(response.status_code)
        await response.aclose()
        return _answer(response, bytes(content))

    async def _begun(self, response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            await self._read(response)
        return response


def _base(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in ("https", "http") or not url.hostname or url.username or url.query or url.fragment:
        raise ValueError(
            "`base_url` is an http or https URL such as https://example.com/api, without user, query and fragment"
        )
    return text.rstrip("/")


def _segment(text: str) -> str:
    """One segment of a path. Dots would be taken for a way up."""
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} is not an id or a name: a path can't have it")
    return quote(text, safe="")


def _parameter(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return utc(value)
        case date():
            return value.isoformat()
        case _:
            return str(value)

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias, cast
from uuid import uuid4

import pytest
from anyio.from_thread import start_blocking_portal
from support import ADMIN, Blocking, Peer, Quickstart, Reply
from tower_quota_client import AsyncQuotaClient, QuotaClient

#: Makes a client: what it takes is what `QuotaClient` takes.
Connect: TypeAlias = Callable[..., QuotaClient]
Serve: TypeAlias = Callable[..., Peer]


@pytest.fixture(scope="session", autouse=True)
def direct() -> None:
    """A proxy of this machine is not for servers of the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]


@pytest.fixture(scope="session")
def quickstart() -> Iterator[Quickstart]:
    started = Quickstart()
    yield started
    started.stop()


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Each test of a client is one of all three."""
    with ExitStack() as stack:
        if request.param == "blocking":

            def make(*args: Any, **kwargs: Any) -> QuotaClient:
                return stack.enter_context(QuotaClient(*args, **kwargs))
        else:
            portal = stack.enter_context(start_blocking_portal(request.param))

            def make(*args: Any, **kwargs: Any) -> QuotaClient:
                client = portal.call(lambda: AsyncQuotaClient(*args, **kwargs))
                stack.callback(portal.call, client.aclose)
                return cast(QuotaClient, Blocking(portal, client))

        yield make


@pytest.fixture
def admin(connect: Connect, quickstart: Quickstart) -> QuotaClient:
    return connect(quickstart.url, ADMIN, timeout=30)


@pytest.fixture
def name() -> str:
    """A workspace that nobody else uses."""
    return f"w-{uuid4()}"


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def make(*replies: Reply) -> Peer:
            peer = Peer(*replies)
            stack.callback(peer.stop)
            return peer

        yield make

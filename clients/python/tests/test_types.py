"""That mypy sees through the descriptors: of a blocking client methods answer results, of an async one they are awaited."""

from collections.abc import AsyncGenerator, Iterator
from typing import assert_type

import anyio
from support import ADMIN, Quickstart
from tower_quota_client import AsyncQuotaClient, AuditEntry, QuotaClient, QuotaStatus, Verdict


def test_blocking(quickstart: Quickstart) -> None:
    with QuotaClient(quickstart.url, ADMIN) as client:
        workspace = client.workspace("types")
        assert_type(workspace.status(), QuotaStatus)
        assert_type(workspace.audit(), Iterator[AuditEntry])
        assert_type(client.system.report_csv(), Iterator[bytes])
        assert isinstance(workspace.validate(resource_type="segments", increment=2), Verdict)


def test_async(quickstart: Quickstart) -> None:
    async def run() -> None:
        async with AsyncQuotaClient(quickstart.url, ADMIN) as client:
            workspace = client.workspace("types")
            assert_type(await workspace.status(), QuotaStatus)
            assert_type(workspace.audit(), AsyncGenerator[AuditEntry, None])
            assert_type(client.system.report_csv(), AsyncGenerator[bytes, None])
            assert isinstance(await workspace.validate(resource_type="segments", increment=2), Verdict)

    anyio.run(run)


def test_methods_are_documented() -> None:
    with QuotaClient("https://example.com/api") as client:
        assert client.workspace("acme").validate.__doc__ == type(client.workspace("acme")).validate.__doc__
        assert "QuotaExceeded" in (client.workspace("acme").validate.__doc__ or "")

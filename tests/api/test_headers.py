"""Headers that every answer has."""

import pytest

from tests.api.support import SUBMISSION, Api

ID = "0198a000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/jobs", 200),
        ("GET", "/jobs?limit=1", 200),
        ("GET", "/jobs?unknown=1", 400),
        ("HEAD", "/jobs", 200),
        ("PUT", "/jobs", 405),
        ("OPTIONS", "/jobs", 204),
        ("POST", "/jobs", 201),
        ("POST", "/jobs/batch", 400),
        ("POST", "/jobs/stream", 201),
        ("GET", f"/jobs/{ID}", 404),
        ("POST", f"/jobs/{ID}/cancel", 404),
        ("DELETE", f"/jobs/{ID}", 404),
        ("GET", "/health", 200),
        ("GET", "/health/ready", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
    ],
)
async def test_nothing_may_be_kept_by_a_cache(method: str, path: str, status: int) -> None:
    answer = await Api().client.request(method, path, body=SUBMISSION)

    assert answer.status == status
    assert answer.headers["cache-control"] == "no-store"

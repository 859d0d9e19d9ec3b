"""Each test of the API runs twice: with the fast path, as under the command, and without it."""

import pytest

from tests.api.support import Api


@pytest.fixture(
    autouse=True, params=[True, pytest.param(False, marks=pytest.mark.proof)], ids=["fast", "quart"]
)
def fast_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether clients take the fast path."""
    monkeypatch.setattr(Api, "fast_path", request.param)
    return bool(request.param)

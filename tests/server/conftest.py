"""Tests that ask for `ways` run twice: the application answers by ASGI, or at once."""

import pytest

from .serving import Served


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.proof)], ids=["asgi", "now"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server asks the application for an answer without ASGI."""
    monkeypatch.setattr(Served, "answers_now", request.param)
    return bool(request.param)

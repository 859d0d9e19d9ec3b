"""`make_app` and `open_jobs` take all settings of the configuration, but for those listed here."""

import inspect
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.docs.blocks import DOCS
from trio_jobs import open_jobs
from trio_jobs.asgi import make_app
from trio_jobs.embed import Options
from trio_jobs.setting_type import ConfigError, Setting
from trio_jobs.settings import SETTINGS, HttpSettings, MetricsSettings, PoolSettings, StoreSettings

# The other server has its own; `docs/how-to/embedding.md` names each of them.
WITHOUT_EFFECT = {
    "http.access_log",
    "http.bind",
    "http.body_timeout",
    "http.certfile",
    "http.graceful_timeout",
    "http.header_timeout",
    "http.keep_alive_timeout",
    "http.keyfile",
    "http.max_connections",
    "http.max_header_bytes",
    "http.max_requests_per_connection",
    "http.pipe_pause_timeout",
    "http.secure_cookie",
    "http.send_timeout",
    "http.session_seconds",
    "http.unix_mode",
    "logging.file",
    "logging.slow_step",
    "logging.keep_job_lines",
    "metrics.enabled",
    "metrics.open",
    "tracing.enabled",
    "tracing.parent",
    "pool.leftovers",
}
# The first two are the program's own: the deadline of a scope, and what to do with unfinished jobs.
# The third one is for those who write no program.
NO_ARGUMENTS = {"grace_period", "leftovers", "url_file"}

# No handler of the demonstration runs there.
LIFESPANS_ELSEWHERE = {"lifespan.asyncio", "lifespan.process", "lifespan.thread"}

VALUES: list[object] = [7, 7.5, 7777, True, False, "x", "normal", "all", "debug", "json", "0666"]
VALUES += ["control", "child", "asyncio", "uvloop", "contextlib:nullcontext"]
VALUES += ["postgresql://localhost/shop"]

# What a setting needs beside it.
BESIDE: dict[str, dict[str, object]] = {
    "store.keep_for": {"store.path": "jobs.db"},
    "store.lease": {"store.url": "postgresql://"},
    "store.listen_url": {"store.url": "postgresql://"},
    "store.max_open": {"store.url": "postgresql://"},
}


def another_value(setting: Setting) -> object:
    """A value of the setting that is not the default."""
    for value in [*VALUES, ["127.0.0.1:7"]]:
        with suppress(ConfigError):
            if setting.convert(value, where="") != setting.default:
                return value
    raise AssertionError(setting)


class App:
    """What of a configuration reaches the pool, the API and the log of `make_app`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, object] = {}
        logger = logging.getLogger("trio_jobs")
        monkeypatch.setattr(logger, "setLevel", lambda level: self.seen.update(level=level))
        monkeypatch.setattr(logger, "hasHandlers", lambda: False)
        monkeypatch.setattr(logger, "addHandler", lambda _: None)
        monkeypatch.setattr("trio_jobs.asgi.LogFormatter", lambda form: self.seen.update(form=form))
        monkeypatch.setattr("trio_jobs.configured_jobs.open_jobs", self.open_jobs)

    @asynccontextmanager
    async def open_jobs(self, _handlers: object, **options: object) -> AsyncIterator[object]:
        self.seen["pool"] = options
        yield SimpleNamespace(asgi=lambda **options: self.seen.update(api=options))


async def what_reaches_the_parts(variables: dict[str, object]) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patches:
        for name, value in variables.items():
            text = value[0] if isinstance(value, list) else str(value)
            patches.setenv(f"TRIO_JOBS_{name.upper().replace('.', '_')}", text)
        app = App(patches)

        async def send(_: object) -> None:
            await trio.lowlevel.checkpoint()

        await make_app()({"type": "lifespan"}, trio.lowlevel.checkpoint, send)
        return app.seen


async def test_each_setting_reaches_its_part_or_is_listed_as_one_without_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("postgresql://localhost/shop")  # a token, and a URL
    without_effect = {"http.certfile", "http.keyfile"}  # they need each other, and real files
    for name in SETTINGS.keys() - without_effect - LIFESPANS_ELSEWHERE:
        given = BESIDE.get(name, {})
        changed = given | {name: another_value(SETTINGS[name])}
        if await what_reaches_the_parts(changed) == await what_reaches_the_parts(given):
            without_effect.add(name)

    assert without_effect == WITHOUT_EFFECT


def test_page_names_each_setting_without_effect() -> None:
    page = (DOCS / "how-to/embedding.md").read_text()

    for name in WITHOUT_EFFECT:
        assert f"`{name}`" in page or f"`{name.partition('.')[2]}`" in page, name


def test_each_setting_of_pool_and_store_is_an_argument_of_open_jobs() -> None:
    arguments = inspect.signature(open_jobs).parameters.keys() - {"handlers"}
    settings = {each.name for section in (PoolSettings, StoreSettings) for each in fields(section)}

    assert settings - arguments == NO_ARGUMENTS
    assert arguments - settings == {
        "max_payload_bytes",
        "max_types",
        "max_waiters",
        "lifespan",
        "state",
    }
    assert Options.__annotations__.keys() == arguments - {"path", "url"}


async def test_each_argument_of_open_jobs_reaches_the_pool_and_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reached(Exception):  # noqa: N818  (it ends the call where the test has seen enough)
        pass

    seen: list[object] = []

    def make_pool(
        _handlers: object, _send: object, _store: object, *sections: object, **_: object
    ) -> None:
        seen.extend(sections)
        raise Reached

    monkeypatch.setattr("trio_jobs.embed.make_pool", make_pool)
    monkeypatch.setattr(
        "trio_jobs.embed.check_store_settings", lambda *_: None
    )  # values fit together
    settings = {name.partition(".")[2]: setting for name, setting in SETTINGS.items()}
    settings["max_payload_bytes"] = settings["max_body_bytes"]
    options: dict[str, Any] = {
        name: settings[name].convert(another_value(settings[name]), where="")
        for name in Options.__annotations__.keys() - {"lifespan", "state"}
    }

    with pytest.raises(Reached):
        async with open_jobs({}, **options):
            pytest.fail("the block is entered")

    found: dict[str, object] = {}
    for section in seen:
        assert isinstance(section, PoolSettings | StoreSettings | HttpSettings | MetricsSettings)
        found |= {each.name: getattr(section, each.name) for each in fields(section)}
    assert {name: found[name] for name in options if name in found} == {
        name: value for name, value in options.items() if name != "max_payload_bytes"
    }
    assert found["max_body_bytes"] == options["max_payload_bytes"]


@pytest.mark.parametrize("name", ["max_payload_bytes", "max_result_bytes"])
async def test_value_that_no_file_takes_is_refused(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {name: 900_000_001}

    with pytest.raises(ConfigError, match=r"must be at most 900000000 with store\.path"):
        async with open_jobs({}, path=tmp_path / "jobs.db", **options):
            pytest.fail("the block is entered")

    assert not (tmp_path / "jobs.db").exists()

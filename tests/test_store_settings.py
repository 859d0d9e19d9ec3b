"""Which settings of the store fit together, and where the URL of a database comes from."""

from pathlib import Path
from typing import Any

import pytest

from trio_jobs.config import describe, load_config
from trio_jobs.preparation import prepare_store
from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import Config, HttpSettings, PoolSettings, StoreSettings
from trio_jobs.store_settings import check_store_settings

URL = "postgresql://shop:s3cret@localhost/shop"


def refusal(pool: dict[str, Any] | None = None, http: int = 1, **store: Any) -> str:  # noqa: ANN401
    with pytest.raises(ConfigError) as refused:
        check_store_settings(
            PoolSettings(**(pool or {})), StoreSettings(**store), HttpSettings(max_body_bytes=http)
        )
    return str(refused.value)


@pytest.mark.parametrize(
    "store",
    [
        {"path": "jobs.db"},
        {"sync": "normal"},
        {"keep_completed": 7},
        {"keep_failed": 7},
        {"keep_completed_bytes": 7},
    ],
)
def test_what_is_about_a_file_is_refused_beside_a_database(store: dict[str, Any]) -> None:
    [name] = store

    assert refusal(url=URL, **store) == f"store.{name} has no use with store.url"


@pytest.mark.parametrize("store", [{"lease": 7.0}, {"listen_url": URL}, {"max_open": 7}])
def test_what_is_about_a_database_is_refused_without_one(store: dict[str, Any]) -> None:
    [name] = store

    assert refusal(**store) == f"store.{name} needs store.url"
    assert refusal(path="jobs.db", **store) == f"store.{name} needs store.url"


def test_what_the_pool_would_keep_or_finish_itself_is_refused_beside_a_database() -> None:
    leftovers = refusal({"leftovers": "left"}, url=URL)

    assert leftovers == "pool.leftovers has no use with store.url: the database keeps the jobs"
    assert "pool.drain must be 'running'" in refusal({"drain": "all"}, url=URL)
    assert "at most 50000000 with store.url" in refusal(url=URL, http=50_000_001)
    assert "must not be set together" in refusal(url=URL, url_file="url")


def test_all_settings_of_a_database_fit_together() -> None:
    store = StoreSettings(
        url=URL, listen_url=URL, lease=3.0, max_open=7, keep_for=60.0, timeout=1.0
    )

    check_store_settings(PoolSettings(drain="running"), store, HttpSettings())


def load(folder: Path, text: str) -> Config:
    file = folder / "config.toml"
    file.write_text(f"[store]\n{text}\n")
    return load_config(file, environment={}, overrides={})


@pytest.mark.parametrize("beginning", ["\n", "\ufeff"])
def test_url_may_be_in_a_file_beside_the_configuration(tmp_path: Path, beginning: str) -> None:
    (tmp_path / "url").write_text(f"{beginning}{URL}\n")

    config = load(tmp_path, "url_file = 'url'")

    assert prepare_store(config).store.url == URL


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read the file '.*url': No such file or directory$"),
        (b"\xff", "must be UTF-8$"),
        (b"", "must be a URL that begins with postgresql://, got a value that is not shown here$"),
        (b"mysql://s3cret", "a URL that begins with postgresql://, got a value that is not shown"),
    ],
)
def test_file_without_a_url_is_refused_and_not_shown(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "url").write_bytes(content)

    with pytest.raises(ConfigError, match=reason) as refused:
        prepare_store(load(tmp_path, "url_file = 'url'"))

    assert "s3cret" not in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'config.toml'}: store.url_file: ")


@pytest.mark.parametrize(
    "text",
    [
        f"url = '{URL}?colour=s3cret'",
        f"url = 'postgresql://shop:s3c%zzret@localhost'\nlisten_url = '{URL}'",
        f"url = '{URL}'\nlisten_url = 'postgres://[s3cret'",
    ],
)
def test_url_that_cannot_be_read_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"url must be a URL that libpq takes") as refused:
        prepare_store(load(tmp_path, text))

    assert "s3c" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_in_force_are_shown_without_urls(tmp_path: Path) -> None:
    text = describe(load(tmp_path, f"url = '{URL}'\nlisten_url = '{URL}'\nlease = 3"))

    assert "lease = 3.0" in text
    assert "url" not in text


def test_relative_path_starts_at_the_folder_of_the_configuration(tmp_path: Path) -> None:
    config = prepare_store(load(tmp_path, "path = 'jobs.db'"))

    assert config.store.path == str(tmp_path / "jobs.db")

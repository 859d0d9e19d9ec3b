"""Which server a command asks, and with which token."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from tests.support import closed
from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.server_option import DEFAULT_URL, Server, add_server_options, find_server
from trio_jobs.settings import HttpSettings


def found(*arguments: str) -> Server:
    parser = ArgumentParser()
    add_server_options(parser)
    return find_server(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no variables."""
    for name in ("TRIO_JOBS_URL", "TRIO_JOBS_TOKEN", "TRIO_JOBS_HTTP_BIND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_option_goes_over_the_environment_that_over_the_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [found().url]
    (folder / "config.toml").write_text('http.bind = "127.0.0.1:81"')
    addresses.append(found().url)
    monkeypatch.setenv("TRIO_JOBS_HTTP_BIND", "127.0.0.1:82")
    addresses.append(found().url)
    monkeypatch.setenv("TRIO_JOBS_URL", "http://127.0.0.1:83/")
    addresses.append(found().url)
    addresses.append(found("--url=http://127.0.0.1:84/jobs/").url)

    ports = [81, 82, 83]
    assert addresses == [
        DEFAULT_URL,
        *(f"http://127.0.0.1:{port}" for port in ports),
        "http://127.0.0.1:84/jobs",
    ]
    assert f"http://{HttpSettings().bind[0]}" == DEFAULT_URL


@pytest.mark.parametrize(
    ("config", "url", "socket"),
    [
        ('bind = "0.0.0.0:81"', "http://127.0.0.1:81", None),
        ('bind = "[::]:81"', "http://[::1]:81", None),
        ('bind = ["unix:/run/s", "127.0.0.1:81"]', "http://localhost", "/run/s"),
        ('bind = "jobs:81"\ncertfile = "a"\nkeyfile = "b"', "https://jobs:81", None),
    ],
)
def test_configured_address_is_one_that_a_client_of_the_machine_can_ask(
    folder: Path, config: str, url: str, socket: str | None
) -> None:
    (folder / "config.toml").write_text(f"[http]\n{config}")

    server = found()

    assert (server.url, server.socket, server.is_local) == (url, socket, True)


def test_configuration_that_may_not_be_read_names_no_server(folder: Path) -> None:
    with closed(folder), pytest.raises(CommandError, match=r"Permission denied; --url names"):
        found()


def test_unix_socket_can_be_named() -> None:
    server = found("--url=unix:/run/s")

    assert (server.socket, str(server)) == ("/run/s", "unix:/run/s")


@pytest.mark.parametrize(
    ("config", "variables", "arguments", "complaint"),
    [
        ('http.bind = "127.0.0.1:0"', {}, [], "http.bind names no port"),
        ("title = 1", {}, [], "config.toml: title is not a section"),
        ("", {"TRIO_JOBS_URL": ""}, [], "TRIO_JOBS_URL must be http://HOST:PORT"),
        ("", {}, ["--url=http://ann:secret@a"], "--url must be"),
        ("", {}, ["--url=http://a?b"], "--url must be"),
        ("", {}, ["--url=unix:s"], "--url: expected 'unix:/path'"),
        ("", {"TRIO_JOBS_TOKEN": ""}, [], "TRIO_JOBS_TOKEN must hold one token"),
        ("", {"TRIO_JOBS_TOKEN": "a\nb"}, [], "TRIO_JOBS_TOKEN must hold one token"),
        ("", {}, ["--token-file=config.toml"], "--token-file config.toml must hold one token"),
        ("", {}, ["--token-file=/"], "--token-file /: Is a directory"),
    ],
)
def test_mistake_is_named_with_its_source_and_status_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    variables: dict[str, str],
    arguments: list[str],
    complaint: str,
) -> None:
    (folder / "config.toml").write_text(config)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    with pytest.raises(CommandError) as refused:
        found(*arguments)

    assert refused.value.status == 2
    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_token_of_the_file_goes_over_that_of_the_environment_and_is_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bom: str
) -> None:
    monkeypatch.setenv("TRIO_JOBS_TOKEN", "of-the-environment")
    (folder / "token").write_text(f"{bom}of-the-file\n")

    servers = [found(), found("--token-file=token")]

    assert [server.token for server in servers] == ["of-the-environment", "of-the-file"]
    assert "of-the" not in repr(servers)

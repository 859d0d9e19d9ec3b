"""The parser of the command: `serve`, what no command means, and the other commands."""

import signal
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from trio_jobs.bootstrap import check
from trio_jobs.cli import COMMANDS, make_parser, run
from trio_jobs.config import load_config
from trio_jobs.setting_type import ConfigError
from trio_jobs.shutdown.signals import OURS

SERVER = ["--config=a.toml", "--workers=3", "--check"]


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """The command takes signals for the rest of its process: here they come back."""
    before = {signum: signal.getsignal(signum) for signum in OURS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    "arguments",
    [["serve", *SERVER], [*SERVER, "serve"], [*SERVER[:1], "serve", *SERVER[1:]]],
    ids=["behind", "before", "both"],
)
def test_serve_has_the_options_of_no_command(arguments: list[str]) -> None:
    without = vars(make_parser(print).parse_args(SERVER))
    with_serve = vars(make_parser(print).parse_args(arguments))

    assert with_serve == without | {"command": "serve"}


@pytest.mark.usefixtures("kept_signals")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--workers=3", "submit", "email"],
            "submit stands behind options; submit must be the first argument",
        ),
        (
            ["--url", "http://a", "list"],
            "unrecognized arguments: http://a; list must be the first argument",
        ),
        (["sumbit", "email"], "unrecognized arguments: sumbit, the nearest is submit"),
        (["serv"], "unrecognized arguments: serv, the nearest is serve"),
        (["submit", "--wiat", "email"], "unrecognized arguments: --wiat, the nearest is --wait"),
        (["submit"], "the following arguments are required: TYPE"),
    ],
)
def test_misplaced_or_unknown_word_is_one_line_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = run(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)

    assert (status, capsys.readouterr().err) == (2, f"trio-jobs: {complaint}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser(print, complete=True).parse_args([name, "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: trio-jobs {name} ")
    assert callable(import_module(f"trio_jobs.commands.{COMMANDS[name][0]}").run)


@pytest.fixture
def removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder was removed: a deployment has replaced it, for example."""
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.usefixtures("kept_signals", "removed_folder")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the current folder was removed, and config.toml with it"),
        (["run", "--type=email", "records"], "the current folder was removed"),
    ],
)
def test_removed_current_folder_is_one_line_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(arguments)

    assert status == 2
    assert capsys.readouterr().err == f"trio-jobs: {complaint}\n"


@pytest.mark.usefixtures("removed_folder")
@pytest.mark.parametrize(
    ("text", "setting"),
    [("[logging]\nfile = 'log'", "logging.file"), ("[pool]\nleftovers = 'log'", "pool.leftovers")],
)
def test_path_that_starts_at_a_removed_folder_is_refused(
    tmp_path: Path, text: str, setting: str
) -> None:
    (tmp_path / "config.toml").write_text(text)
    config = load_config(tmp_path / "config.toml", environment={}, overrides={})

    with pytest.raises(ConfigError) as refused:
        check(config, warn=print)

    reason = "'log' starts at the current folder, which was removed"
    assert str(refused.value) == f"{setting}: {reason}"

"""Each page's blocks, followed in their order, do what the page says."""

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, PAGES, README, ROOT, Block, blocks_of, named_tests
from tests.docs.runner import Reader
from trio_jobs.config import load_config

# What is done with a block; of a picture there is nothing to do, and the directives are Sphinx's.
FOLLOWED = {"python", "toml", "console"}
# What takes long, or makes its own environment: `.ci/run` does.
FOLLOWED_BY_CI = {"sh"}
CHECKED = {"bash", "ini", "dockerfile", "go", "javascript", "yaml", "nginx", "sql"}
LOOKED_AT = {"text", "mermaid", "{toctree}", "{eval-rst}"}

# Where the README goes on with the configuration that is shipped.
SHIPPED = {""}

# How long a stop can take: see the hard limit in how-to/deploy.md.
CONFIG = load_config(None, environment={}, overrides={})
LONGEST_STOP = CONFIG.pool.grace_period + CONFIG.http.graceful_timeout + 1


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


def blocks_of_kind(kind: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.kind == kind]


# It needs a database; see test_postgres_page.py.
OVER_A_DATABASE = DOCS / "how-to/postgres.md"


@pytest.mark.parametrize("page", [page for page in PAGES if page != OVER_A_DATABASE], ids=name_of)
def test_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    follow(page, blocks_of(page), Reader(tmp_path))


def test_readme_does_what_it_says_with_the_configuration_that_is_shipped(tmp_path: Path) -> None:
    blocks = [block for block in blocks_of(README) if block.section in SHIPPED]
    assert {block.section for block in blocks} == SHIPPED
    reader = Reader(tmp_path)
    reader.write("config.toml", (ROOT / "config.toml").read_text())
    reader.start("trio-jobs")  # by the first command

    follow(README, blocks, reader)


def test_readme_does_what_it_says_with_handlers_of_the_readers(tmp_path: Path) -> None:
    blocks = [block for block in blocks_of(README) if block.section not in SHIPPED]

    follow(README, blocks, Reader(tmp_path))


def test_reader_leaves_the_machines_own_folders_alone(tmp_path: Path) -> None:
    Reader(tmp_path).write("/etc/systemd/system/trio-jobs.service", "[Unit]")

    assert (tmp_path / "work/etc/systemd/system/trio-jobs.service").read_text() == "[Unit]"


def follow(page: Path, blocks: list[Block], reader: Reader) -> None:
    """Do what these blocks say."""
    for block in blocks:
        known = FOLLOWED | FOLLOWED_BY_CI | CHECKED | LOOKED_AT
        assert block.kind in known, f"line {block.line}: {block.kind!r}"
        if block.kind in {"python", "toml"} | CHECKED:
            assert block.name, f"line {block.line}: the first line must name the file"
        if block.kind in FOLLOWED_BY_CI:
            assert str(page.relative_to(ROOT)) in (ROOT / ".ci/run").read_text()
        if block.kind == "text":
            assert not re.search(r"^\$ ", block.text, re.MULTILINE), f"line {block.line}"
    try:
        if shutil.which("curl") is None and any("curl " in block.text for block in blocks):
            pytest.skip("needs curl")
        for block in blocks:
            try:
                reader.follow(block)
            except AssertionError as error:
                raise AssertionError(f"{page.name}, line {block.line}: {error}") from error
        reader.close()
    finally:
        reader.kill()


@pytest.mark.parametrize("page", [*PAGES, README], ids=str)
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, function in named_tests(page):
        if not Path(file).name.startswith("test_"):
            continue
        path = ROOT / "tests" / file
        assert path.is_file(), file
        if function is not None:
            assert re.search(rf"^(async )?def {function}\(", path.read_text(), re.MULTILINE), (
                function
            )


def test_unit_of_systemd_waits_for_the_hard_limit() -> None:
    [block] = [each for each in blocks_of_kind("ini") if "[Unit]" in each.text]

    [seconds] = re.findall(r"TimeoutStopSec=(\d+)", block.text)
    assert float(seconds) > LONGEST_STOP


def test_containers_have_time_for_the_hard_limit() -> None:
    page = DOCS / "how-to/deploy.md"
    one, kubernetes = [block for block in blocks_of(page) if block.kind == "yaml"]
    several = blocks_of(DOCS / "how-to/several-servers.md")
    [two] = [block for block in several if block.kind == "yaml"]

    for compose in (one, two):
        [seconds] = re.findall(r"stop_grace_period: (\d+)s", compose.text)
        assert float(seconds) > LONGEST_STOP
    [seconds] = re.findall(r"terminationGracePeriodSeconds: (\d+)", kubernetes.text)
    assert float(seconds) > LONGEST_STOP


def test_proxy_waits_as_long_as_a_client_may_and_lets_connections_go_first() -> None:
    for block in blocks_of_kind("nginx"):
        for seconds in re.findall(r"proxy_read_timeout (\d+)s;", block.text):
            assert float(seconds) > CONFIG.http.max_wait_seconds
        [seconds] = re.findall(r" keepalive_timeout (\d+)s;", block.text)
        assert float(seconds) < CONFIG.http.keep_alive_timeout

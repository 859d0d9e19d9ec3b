"""What `.ci/check_pages.py` finds in built pages."""

import importlib.util
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

specification = importlib.util.spec_from_file_location("check_pages", ROOT / ".ci/check_pages.py")
assert specification is not None
assert specification.loader is not None
check_pages = importlib.util.module_from_spec(specification)
specification.loader.exec_module(check_pages)


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.com/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.com/css">',
        '<img src="http://example.com/a.png">',
        '<p style="background: url(https://example.com/a.png)">',
    ],
)
def test_page_that_loads_from_elsewhere_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(text)

    assert check_pages.main(str(tmp_path)) == 1


def test_style_sheet_that_loads_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "page.html").touch()
    (tmp_path / "a.css").write_text("@import 'https://fonts.example.com/css';")

    assert check_pages.main(str(tmp_path)) == 1


def test_links_and_own_parts_are_fine(tmp_path: Path) -> None:
    text = '<link href="_static/a.css"><script src="a.js"></script><a href="https://example.com">'
    (tmp_path / "page.html").write_text(text)

    assert check_pages.main(str(tmp_path)) == 0


def test_folder_without_pages_is_no_success(tmp_path: Path) -> None:
    assert check_pages.main(str(tmp_path)) == 1

"""Where a folder is placed on the path that modules are imported from."""

import os
import sys
from pathlib import Path

import pytest

import trio_jobs
from trio_jobs.import_path import library_path, place_folder, take_first_folder

LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - as the path has it
ZIP = f"/usr/lib/python{sys.version_info[0]}{sys.version_info[1]}.zip"
DYNLOAD = f"{LIBRARY}/lib-dynload"
PACKAGES = "/opt/venv/site-packages"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            ["/usr/bin", ZIP, LIBRARY, DYNLOAD, PACKAGES],
            ["/usr/bin", ZIP, LIBRARY, DYNLOAD, "FOLDER", PACKAGES],
            id="console script",
        ),
        pytest.param(
            ["FOLDER", ZIP, LIBRARY, DYNLOAD, PACKAGES],
            [ZIP, LIBRARY, DYNLOAD, "FOLDER", PACKAGES],
            id="in front",
        ),
        pytest.param(
            ["", ZIP, LIBRARY, DYNLOAD, PACKAGES],
            [ZIP, LIBRARY, DYNLOAD, "FOLDER", PACKAGES],
            id="the current folder",
        ),
        pytest.param(
            ["LINK", "/elsewhere", ZIP, LIBRARY, DYNLOAD],
            ["/elsewhere", ZIP, LIBRARY, DYNLOAD, "FOLDER"],
            id="by another name",
        ),
        pytest.param(
            [ZIP, LIBRARY, DYNLOAD, "FOLDER", PACKAGES],
            [ZIP, LIBRARY, DYNLOAD, "FOLDER", "FOLDER", PACKAGES],
            id="there already",
        ),
        pytest.param(
            [LIBRARY, DYNLOAD, PACKAGES, ZIP, LIBRARY, DYNLOAD, "/more"],
            [LIBRARY, DYNLOAD, PACKAGES, ZIP, "FOLDER", LIBRARY, DYNLOAD, "/more"],
            id="PYTHONPATH with a whole path",
        ),
        pytest.param([ZIP, "/elsewhere"], [ZIP, "FOLDER", "/elsewhere"], id="zipped library"),
        pytest.param(["/frozen"], ["FOLDER", "/frozen"], id="no library on the path"),
        pytest.param([], ["FOLDER"], id="empty"),
    ],
)
def test_folder_comes_behind_the_library_and_before_the_packages(
    before: list[str], after: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    names = {"FOLDER": str(folder), "LINK": str(link)}
    monkeypatch.setattr(sys, "path", [names.get(path, path) for path in before])

    place_folder(str(folder))

    assert sys.path == [names.get(path, path) for path in after]


def test_library_keeps_its_place_when_it_is_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [ZIP, LIBRARY, DYNLOAD, PACKAGES])

    place_folder(LIBRARY)

    assert sys.path == [ZIP, LIBRARY, DYNLOAD, LIBRARY, PACKAGES]


def test_folders_that_are_gone_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    current.rmdir()
    monkeypatch.setattr(sys, "path", ["", str(current), LIBRARY])

    place_folder(str(tmp_path))

    assert sys.path == ["", str(current), LIBRARY, str(tmp_path)]


def test_first_folder_is_taken_off_until_it_is_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PYTHONPATH has put it there as well.
    monkeypatch.setattr(sys, "path", [str(tmp_path), f"{tmp_path}/", ZIP, LIBRARY, PACKAGES])

    assert take_first_folder() == str(tmp_path)

    assert sys.path == [ZIP, LIBRARY, PACKAGES]


def test_first_folder_that_this_package_is_in_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    # As are its libraries after `pip install --target`.
    own = str(Path(trio_jobs.__file__).parents[1])
    monkeypatch.setattr(sys, "path", [own, ZIP, LIBRARY, PACKAGES])

    assert take_first_folder() is None

    assert sys.path == [ZIP, LIBRARY, own, PACKAGES]


def test_library_of_this_python_is_found() -> None:
    assert LIBRARY in library_path()

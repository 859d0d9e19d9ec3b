"""No module, no attribute, and a module that raised are told apart."""

import sys
from pathlib import Path

import pytest

from tests.support import closed
from trio_jobs.handlers.importing import HandlerError, load_function

MODULES = {
    "good_handlers": "class Group:\n    @staticmethod\n    def work(payload): return payload\n",
    "raising_handlers": "\n\n1 / 0\n",
    "exiting_handlers": "import sys; sys.exit('no database')\n",
    "broken_handlers": "def work(:\n",
    "interrupted_handlers": "raise KeyboardInterrupt\n",
    "basic_handlers": "class Basic(BaseException): pass\nraise Basic('two\\nlines')\n",
    "importing_broken_handlers": "import broken_handlers\n",
    "lazy_handlers": "def __getattr__(name):\n    import not_installed_anywhere\n",
    "refusing_handlers": "def __getattr__(name): raise ValueError('not now')\n",
    "leaving_handlers": "def __getattr__(name): raise SystemExit(3)\n",
    "needing_handlers": "import not_installed_anywhere\n",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_function_is_loaded_by_its_qualified_name() -> None:
    work = load_function("good_handlers:Group.work")

    assert callable(work)
    assert work(1) == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:work", "no module named 'no_such_module'"),
        ("good_handlers.deeper:work", "no module named 'good_handlers.deeper' in /"),
        ("good_handlers:works", "/good_handlers.py) has no 'works'"),
        ("good_handlers:Group.works", "/good_handlers.py) has no 'Group.works'"),
        ("time:works", "module 'time' (built-in) has no 'works'"),
    ],
)
def test_what_is_not_there_is_named(reference: str, message: str) -> None:
    with pytest.raises(HandlerError) as refusal:
        load_function(reference)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raising_handlers", "ZeroDivisionError: division by zero"),
        ("exiting_handlers", "SystemExit: no database"),
        ("interrupted_handlers", "KeyboardInterrupt: "),
        ("basic_handlers", "Basic: two lines"),
        ("broken_handlers", "SyntaxError: "),
        ("importing_broken_handlers", "SyntaxError: "),
        ("needing_handlers", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
    ],
)
def test_a_module_that_raises_is_told_from_one_that_is_missing(
    module: str, message: str, modules: Path
) -> None:
    with pytest.raises(HandlerError) as refusal:
        load_function(f"{module}:work")

    text = str(refusal.value)
    assert text.startswith(f"module {module!r} could not be imported: {message}")
    assert "\n" not in text
    guilty = "broken_handlers" if "broken" in module else module
    assert f"({modules / guilty}.py:" in text


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("lazy_handlers", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("refusing_handlers", "ValueError: not now"),
        ("leaving_handlers", "SystemExit: 3"),
    ],
)
def test_a_module_that_raises_when_it_is_asked_for_the_function_is_named(
    module: str, message: str, modules: Path
) -> None:
    with pytest.raises(HandlerError) as refusal:
        load_function(f"{module}:work")

    text = str(refusal.value)
    assert text.startswith(f"module {module!r} could not give 'work': {message}")
    assert f"({modules / module}.py:" in text


@pytest.mark.parametrize("module", ["shop.py", "no_such_shop.py"])
def test_file_s_name_is_answered_with_the_module_s(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text("async def send(payload): ...")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(HandlerError, match="no module named ") as refusal:
        load_function(f"{module}:send")

    assert str(refusal.value).endswith(f"; without the .py it is '{module[:-3]}:send'")


def test_folder_that_may_not_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "closed_shop.py").write_text("async def send(payload): ...")
    monkeypatch.setattr(sys, "path", ["/none", str(folder)])

    with closed(folder), pytest.raises(HandlerError) as refusal:
        load_function("closed_shop:send")

    assert str(refusal.value) == (
        f"no module named 'closed_shop'; Python finds nothing in '{folder}',"
        " which this user may not list"
    )

"""The exceptions that a policy names are found when the handler is made, and a typo is answered."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from trio_jobs import Handler, HandlerError, ProcessDied, RetryPolicy
from trio_jobs.handlers.exception_names import load_exception

MODULES = {
    "shop_errors": "class Refused(Exception):\n    class Inner(OSError): pass\n",
    "shop_work": (
        "from shop_errors import Refused as Declined\n"
        "class TimeoutError(Exception): pass\n"
        "class Refused(Exception): pass\n"
        "def work(payload): pass\n"
        "number = 3\n"
    ),
    "raising_errors": "\n1 / 0\n",
    "needing_errors": "import not_installed_anywhere\n",
    "leaving_errors": "import sys; sys.exit('no database')\n",
    "lazy_errors": (
        "def __dir__(): return ['Refused']\n"
        "def __getattr__(name):\n"
        "    if name == 'Refused': return ValueError\n"
        "    raise AttributeError if name != 'Loud' else SystemExit('not now')\n"
    ),
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    package = tmp_path / "shop_package"
    package.mkdir()
    (package / "__init__.py").write_text("class Refused(Exception): pass\n")
    (package / "errors.py").write_text("class Closed(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = sys.modules.keys() - MODULES.keys()
    yield
    for name in sys.modules.keys() - before:  # their files go with the test
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "module", "class_"),
    [
        ("OSError", "builtins", "OSError"),
        ("IOError", "builtins", "OSError"),
        ("BaseException", "builtins", "BaseException"),
        ("builtins.OSError", "builtins", "OSError"),
        ("TimeoutError", "builtins", "TimeoutError"),
        ("shop_work.TimeoutError", "shop_work", "TimeoutError"),
        ("shop_work.Declined", "shop_errors", "Refused"),
        ("shop_errors.Refused.Inner", "shop_errors", "Refused.Inner"),
        ("shop_package.Refused", "shop_package", "Refused"),
        ("shop_package.errors.Closed", "shop_package.errors", "Closed"),
        ("lazy_errors.Refused", "builtins", "ValueError"),
        ("trio_jobs.ProcessDied", "trio_jobs.retries", "ProcessDied"),
        ("socket.timeout", "builtins", "TimeoutError"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER O}SError", "builtins", "OSError"),
    ],
)
def test_an_exception_is_found_by_its_name(name: str, module: str, class_: str) -> None:
    found = load_exception(name, module="shop_work")

    assert (found.__module__, found.__qualname__) == (module, class_)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OSErorr", "Python has no exception 'OSErorr', the nearest is 'OSError'"),
        ("oserror", "Python has no exception 'oserror', the nearest is 'OSError'"),
        ("Refused", "Python has no exception 'Refused', the nearest is 'shop_work.Refused'"),
        ("Declind", "Python has no exception 'Declind', the nearest is 'shop_work.Declined'"),
        ("Xyzzy", "Python has no exception 'Xyzzy'"),
        ("print", "'print' is no class of exceptions"),
        ("int", "'int' is no class of exceptions"),
        ("shop_work.work", "'shop_work.work' is no class of exceptions"),
        ("shop_work.number", "'shop_work.number' is no class of exceptions"),
        ("shop_work.Refsed", "there is no 'shop_work.Refsed', the nearest is 'shop_work.Refused'"),
        ("shop_work.xyz", "there is no 'shop_work.xyz'"),
        ("shop_work.number.xyz", "there is no 'shop_work.number.xyz'"),
        (
            "shop_errors.Refused.Iner",
            "there is no 'shop_errors.Refused.Iner', the nearest is 'shop_errors.Refused.Inner'",
        ),
        (
            "shop_errors.Refusd.Inner",
            "there is no 'shop_errors.Refusd', the nearest is 'shop_errors.Refused'",
        ),
        (
            "trio_jobs.ProcesDied",
            "there is no 'trio_jobs.ProcesDied', the nearest is 'trio_jobs.ProcessDied'",
        ),
        (
            "lazy_errors.Refsed",
            "there is no 'lazy_errors.Refsed', the nearest is 'lazy_errors.Refused'",
        ),
        ("lazy_errors.Loud", "'lazy_errors.Loud' could not be found: SystemExit: not now ("),
        ("msgspc.Error", "there is no module 'msgspc', the nearest is 'msgspec'"),
        ("shop_pakage.E", "there is no module 'shop_pakage', the nearest is 'shop_package'"),
        ("no_such_module.at.all", "there is no module 'no_such_module'"),
        ("raising_errors.E", "module 'raising_errors' could not be imported: ZeroDivisionError: "),
        ("needing_errors.E", "module 'needing_errors' could not be imported: ModuleNotFoundError"),
        ("leaving_errors.E", "module 'leaving_errors' could not be imported: SystemExit: no data"),
        ("raising_errors.a.E", "module 'raising_errors.a' could not be imported: ZeroDivisionEr"),
    ],
)
def test_what_cannot_be_found_is_named_with_the_nearest(name: str, message: str) -> None:
    load_exception("shop_work.Refused", module="")  # the handler's module is imported by now

    with pytest.raises(HandlerError) as refusal:
        load_exception(name, module="shop_work")

    text = str(refusal.value)
    assert "\n" not in text
    if message.endswith("'"):
        assert text == message
    else:
        assert text.startswith(message)


def work(_payload: object) -> None: ...


@pytest.mark.parametrize(
    ("on", "never", "message"),
    [
        (["OSErorr"], [], "retry.on: Python has no exception 'OSErorr', the nearest is 'OSError'"),
        (["OSError", "a_b_c.D"], [], "retry.on: there is no module 'a_b_c'"),
        ([OSError], ["OSErorr"], "retry.never: Python has no exception 'OSErorr', the nearest is "),
    ],
)
def test_a_handler_with_a_wrong_name_is_refused(
    on: Sequence[str | type[BaseException]], never: Sequence[str], message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(work, retry=RetryPolicy(attempts=3, on=on, never=never))

    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("retry", [3, True, "policy", {"attempts": 3}, RetryPolicy])
def test_no_policy_is_refused(retry: object) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(work, retry=retry)  # type: ignore[arg-type]  # that is what is tested

    assert str(refusal.value) == f"must have a RetryPolicy as its retry, got {retry!r}"


def test_a_handler_has_classes_for_the_names() -> None:
    class LocalError(Exception):
        pass

    policy = RetryPolicy(attempts=3, on=["OSError", LocalError], never=["trio_jobs.ProcessDied"])

    retry = Handler.of(work, retry=policy).retry

    assert retry == RetryPolicy(attempts=3, on=[OSError, LocalError], never=[ProcessDied])

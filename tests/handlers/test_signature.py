"""Which parameter gets the context, and the functions that are refused, with what to write."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ANN204, B019
# What is not annotated is what these are about.

import functools
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import pytest

import trio_jobs
from trio_jobs import Handler, HandlerError, open_jobs
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.importing import load_function

Ctx = JobContext

if TYPE_CHECKING:
    # To be found by nobody but a type checker.
    from trio_jobs.handlers.context import JobContext as Hidden

OBJECTS: dict[str, object] = {
    "class": JobContext,
    "text": "JobContext",
    "text with its module": "trio_jobs.JobContext",
    "text of what is not imported": "elsewhere.JobContext",
    "optional": Optional[JobContext],  # noqa: UP045
    "optional text": Optional["JobContext"],
    "text, optional": "Optional[JobContext]",
    "union": JobContext | None,
    "text of a union": "JobContext | None",
    "text of another union": "typing.Union[None, JobContext]",
    "annotated": Annotated[JobContext, "more"],
    "text, annotated": "Annotated['JobContext', 'more']",
    "text with a parameter": "JobContext[Shop]",
    "with a state": JobContext[int],
    "with a state, optional": JobContext[int] | None,
    "with a state, annotated": Annotated[JobContext[int], "more"],
    "another name": Ctx,
    "text of another name": "Ctx",
    "text of what it is called there": "trio_jobs.handlers.JobContext",
}

NO_CONTEXTS: dict[str, object] = {
    "class": str,
    "text": "str",
    "any": Any,
    "object": object,
    "union": str | None,
    "list": list[JobContext],
    "text of a list": "list[JobContext]",
    "literal": typing.Literal["JobContext"],
    "text in annotated": "Annotated[str, 'JobContext']",
    "no expression": "to be or not",
    "call": "make()",
    "unknown": "Unknown",
}


# JSON cannot be made into these.
NO_TYPES = {"list", "text of a list", "no expression", "call", "unknown"}


def function(source: str, **names: object) -> Callable[..., object]:
    """The function `f` of a source text."""
    namespace = {"JobContext": JobContext, "functools": functools, **names}
    exec(source, namespace)  # noqa: S102
    return cast("Callable[..., object]", namespace["f"])


def with_second(annotation: object) -> Callable[..., object]:
    async def send(to: str, subject: object) -> None: ...

    send.__annotations__["subject"] = annotation
    return send


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_second_parameter_that_is_annotated_so_is_the_context(kind: str) -> None:
    assert Handler.of(with_second(OBJECTS[kind])).takes_context


@pytest.mark.parametrize("kind", NO_CONTEXTS)
def test_a_second_parameter_that_is_annotated_otherwise_is_the_payloads(kind: str) -> None:
    called = with_second(NO_CONTEXTS[kind])

    if kind in NO_TYPES:
        with pytest.raises(HandlerError, match=r"has a payload (annotated|of type) "):
            Handler.of(called)
    else:
        handler = Handler.of(called)
        assert not handler.takes_context
        assert [each.name for each in handler.payload_type.arguments] == ["to", "subject"]


async def hidden(payload: object, job: "Hidden") -> None: ...


def test_another_name_that_only_a_type_checker_sees_is_refused() -> None:
    with pytest.raises(HandlerError, match="'Hidden', which cannot be resolved: name 'Hidden' is"):
        Handler.of(hidden)


def passed_on(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return await function(*args, **kwargs)

    return wrapper


def passed_on_by_position(function):
    @functools.wraps(function)
    async def wrapper(payload, more):
        return await function(payload, more)

    return wrapper


class ACallable:
    """Its instances are called, and so are their methods."""

    async def __call__(self, payload, *, job: JobContext):
        return payload, job

    async def method(self, job: JobContext, payload):
        return payload, job


# The parameters of an async function, and what it returns for the payload 1: "ctx" stands for the
# context.
CALLED_WITH = {
    "payload, job: JobContext": ("payload, job", "ctx"),
    "payload, job: JobContext | None = None": ("payload, job", "ctx"),
    "payload, context": ("payload, context", "ctx"),
    "payload, ctx": ("payload, ctx", "ctx"),
    "payload, context=None": ("payload, context", "ctx"),
    "payload, *, job: JobContext": ("payload, job", "ctx"),
    "payload, *, job: JobContext | None = None": ("payload, job", "ctx"),
    "payload, *, context": ("payload, context", "ctx"),
    "job: JobContext, payload": ("payload, job", "ctx"),
    "job: JobContext, payload, /": ("payload, job", "ctx"),
    "job: JobContext, *payloads: int": ("*payloads, job", "ctx"),
    "_retries=3, *payloads: int": ("*payloads, _retries", 3),
    "payload, _retries=3, job: JobContext | None = None": ("payload, _retries == 3 and job", "ctx"),
    "payload, _retries=3, job: JobContext | None = None, /": (
        "payload, _retries == 3 and job",
        "ctx",
    ),
    "_retries=3, payload=None, /": ("payload, _retries", 3),
    "_retries=3, payload=None": ("payload, _retries", 3),
    "payload, _context: JobContext | None = None": ("payload, _context", "ctx"),
    "*payloads, job: JobContext": ("*payloads, job", "ctx"),
    "context, job: JobContext": ("context, job", "ctx"),
    "job: JobContext, payload: int = 7": ("payload, job", "ctx"),
    "context": ("context, None", None),
    "context, _retries=3": ("context, _retries", 3),
    "ctx, n": ("n, ctx", "ctx"),  # arq's order
    "ctx, n=1": ("n, ctx", "ctx"),
    "ctx, *, n": ("n, ctx", "ctx"),
    "*, payload": ("payload, None", None),
    "payload, *rest, **more": ("payload, rest or more", {}),
    "*args, **kwargs": ("*args, kwargs", {}),
}


@pytest.mark.parametrize("parameters", CALLED_WITH)
async def test_what_a_handler_is_called_with(parameters: str) -> None:
    returned, second = CALLED_WITH[parameters]

    await check_call(function(f"async def f({parameters}): return {returned}"), (1, second))


async def check_call(called: Callable[..., object], returned: tuple[object, object]) -> None:
    handler = Handler.of(called)
    given = (handler.decode(b"1"), "ctx") if handler.takes_context else (handler.decode(b"1"),)

    assert await handler.call(*given) == returned


BY_KEYWORD = function("async def f(payload, *, job: JobContext): return payload, job")
FIRST = function("async def f(job: JobContext, payload): return payload, job")
BY_CLASS = function("async def f(payload, job: JobContext): return payload, job")
WITH_RETRIES = function("async def f(payload, job: JobContext, retries=3): return retries, job")
NESTED = functools.partial(functools.partial(WITH_RETRIES, retries=4))
BY_NAME = function("async def f(payload, context): return payload, context")


@pytest.mark.parametrize(
    ("called", "returned"),
    [
        pytest.param(passed_on(BY_KEYWORD), (1, "ctx"), id="passed on"),
        pytest.param(passed_on(FIRST), (1, "ctx"), id="first, passed on"),
        pytest.param(passed_on_by_position(BY_CLASS), (1, "ctx"), id="passed on by position"),
        (ACallable(), (1, "ctx")),
        (ACallable().method, (1, "ctx")),
        (functools.partial(WITH_RETRIES, retries=4), (4, "ctx")),
        (NESTED, (4, "ctx")),
        (functools.partial(BY_NAME, context="bound"), (1, "bound")),
    ],
)
async def test_what_another_callable_is_called_with(
    called: Callable[..., object], returned: tuple[object, object]
) -> None:
    await check_call(called, returned)


async def test_the_context_comes_wherever_it_stands() -> None:
    async def send(job: JobContext, to: int) -> object:
        return [to, job.type]

    async with open_jobs({"send": send}) as jobs:
        assert await jobs.result(jobs.submit("send", 1).id) == [1, "send"]
        with pytest.raises(trio_jobs.PayloadError):  # by the second parameter's type
            jobs.submit("send", "text")


# By the parameters of an async function, and by spread.
REFUSED = {
    ("payload, context: JobContext, job: JobContext", None): (
        "takes the job's context more than once: 'context', 'job'"
    ),
    ("context, ctx", None): "takes the job's context more than once: 'context', 'ctx'",
    ("a, b=1, **more", None): (
        "takes 'more' beside 'a', 'b': write the names that a payload may have as parameters, or"
        " take it as one, a dict"
    ),
    ("**payload", None): (
        "takes 'payload': write the names that a payload may have as parameters, or take it as one,"
        " a dict"
    ),
    ("a, **more", True): (
        "takes 'more' beside 'a': write the names that a payload may have as parameters, or take it"
        " as one, a dict"
    ),
    ("*payloads, a=1", None): (
        "takes 'payloads' beside 'a': write one parameter, or several with names"
    ),
    ("*payloads", True): "takes 'payloads' alone, in which spread = true finds no names",
    ("a, b, c=1, *, d", False): (
        "takes 'b', 'd', which get no argument: spread = false gives the payload to 'a' alone"
    ),
}


@pytest.mark.parametrize(("parameters", "spread"), REFUSED)
def test_another_shape_is_refused_with_what_to_write(parameters: str, spread: bool | None) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function(f"async def f({parameters}): ..."), spread=spread)

    assert str(refusal.value) == REFUSED[parameters, spread]


def test_a_function_without_a_signature_has_no_names() -> None:
    assert Handler.of(int).decode(b"1") == 1
    with pytest.raises(HandlerError, match="has no signature, in which spread = true would find"):
        Handler.of(int, spread=True)


@pytest.mark.parametrize("spread", [1, "yes"])
def test_spread_is_true_or_false(spread: bool | None) -> None:
    with pytest.raises(HandlerError, match="must have true or false as spread, got "):
        Handler.of(function("async def f(a): ..."), spread=spread)


class Method:
    """A decorator that is a class, and gives the function its instance."""

    def __init__(self, function):
        self.func = function

    def __get__(self, instance, _owner=None):
        return self if instance is None else functools.partial(self.func, instance)

    async def __call__(self, *args):
        return await self.func(*args)


class ToldMethod(Method):
    """One that has a function's name as well."""

    def __init__(self, function):
        super().__init__(function)
        functools.update_wrapper(self, function)


class Shop:
    """Has all kinds of methods."""

    async def send(self, to: str) -> str:
        return f"sent to {to}"

    @functools.wraps(send)
    async def wrapped(self, to: str) -> str:
        return await self.send(to)

    @functools.cache
    def cached(self):
        return "sent to you"

    @passed_on
    async def passed(self):
        return "sent to you"

    @Method
    async def decorated(self):
        return "sent to you"

    @ToldMethod
    async def told(self):
        return "sent to you"

    to_you = functools.partialmethod(send, "you")

    @staticmethod
    async def static(to: str) -> str:
        return to

    @staticmethod
    @passed_on
    async def passed_static(to: str) -> str:
        return to

    @classmethod
    async def of_class(cls, to: str) -> str:
        return to

    class Inner:
        """One inside."""

        def send(self, to: str) -> str:
            return to


class Derived(Shop):
    """Inherits them."""


shop = Shop()


class Send:
    """Its instances are called."""

    async def __call__(self, to: str) -> str:
        return to


class PlainSend:
    """Its instances are called."""

    def __call__(self, to: str) -> str:
        return to


class DerivedSend(Send):
    """So are these."""


METHODS = {
    "Shop.send": Shop.send,
    "Shop.wrapped": Shop.wrapped,
    "Shop.cached": Shop.cached,
    "Shop.passed": Shop.passed,
    "Shop.decorated": Shop.decorated,
    "Shop.told": Shop.told,
    "Shop.to_you": Shop.to_you,
    "Derived.send": Derived.send,
    "Derived.cached": Derived.cached,
    "Shop.Inner.send": Shop.Inner.send,
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_its_instance_is_refused_where_it_is_loaded(name: str) -> None:
    with pytest.raises(HandlerError) as refusal:
        load_function(f"{__name__}:{name}")

    assert str(refusal.value) == (
        f"is a method of class {name.rpartition('.')[0]}: name one of an instance, or make it a"
        " staticmethod"
    )


@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(method, id=name) for name, method in METHODS.items()),
        functools.partial(Shop.passed),
        functools.partial(Shop.send, to="you"),
        functools.partial(functools.partial(Shop.cached)),
        pytest.param(functools.cache(Shop.passed), id="around"),
    ],
)
async def test_a_method_without_its_instance_is_refused_by_open_jobs(
    method: Callable[..., object],
) -> None:
    with pytest.raises(HandlerError, match=r"is a method of class Shop(\.Inner)?: name one of an"):
        async with open_jobs({"send": method}):
            pass


def test_a_method_of_a_local_class_is_refused() -> None:
    class Local:
        def send(self, to: str) -> str:
            return to

        @staticmethod
        def static(to: str) -> str:
            return to

    with pytest.raises(HandlerError, match="is a method of class Local: "):
        Handler.of(Local.send)
    assert Handler.of(Local.static)
    assert Handler.of(Local().send)


@pytest.mark.parametrize(
    "name", ["shop.send", "shop.wrapped", "Shop.static", "Shop.passed_static", "Shop.of_class"]
)
async def test_a_method_that_is_bound_or_needs_no_instance_is_a_handler(name: str) -> None:
    function = load_function(f"{__name__}:{name}")

    async with open_jobs({"send": Handler.of(function, name=f"{__name__}:{name}")}) as jobs:
        result = await jobs.result(jobs.submit("send", "you").id)

    assert result in {"you", "sent to you"}


@pytest.mark.parametrize(
    "function", [functools.partial(Shop.send, shop), functools.partial(Shop().send), str.upper]
)
def test_a_partial_that_has_an_instance_is_a_handler(function: Callable[..., object]) -> None:
    assert Handler.of(function)


def replaced(payload: object) -> object:
    return payload


replaced.__qualname__ = "Shop.gone"


def test_a_function_that_only_says_that_it_is_a_method_is_none() -> None:
    assert Handler.of(replaced)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (Send, "Send"),
        (PlainSend, "PlainSend"),
        (DerivedSend, "DerivedSend"),
        (functools.partial(Send), "Send"),
    ],
)
def test_a_class_whose_instances_are_called_is_refused(made: object, name: str) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(made)

    assert str(refusal.value) == f"is a class; name an instance of it: {name}(...)"
    assert Handler.of(Send())

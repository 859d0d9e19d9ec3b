"""What a handler is called with: a function of another shape is refused, with what to write."""

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

ONE_PAYLOAD = (
    "a job has one payload: write one parameter, a dataclass, a TypedDict or a msgspec.Struct with"
    " these as its fields"
)


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
def test_a_second_parameter_that_is_annotated_otherwise_is_refused(kind: str) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(with_second(NO_CONTEXTS[kind]))

    assert str(refusal.value) == (
        f"takes 'to', 'subject', but {ONE_PAYLOAD}, or annotate 'subject' as JobContext if it is"
        " the job's context"
    )


async def hidden(payload: object, job: "Hidden") -> None: ...


def test_another_name_that_only_a_type_checker_sees_is_refused() -> None:
    with pytest.raises(HandlerError, match="annotate 'job' as JobContext"):
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


# The parameters of an async function, and the value of its payload and its context, for the
# payload 1: "ctx" stands for the context.
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
    "payload, retries=3, job: JobContext | None = None": ("payload, retries == 3 and job", "ctx"),
    "*payloads, job: JobContext": ("*payloads, job", "ctx"),
    "context, job: JobContext": ("context, job", "ctx"),
    "job: JobContext, payload: int = 7": ("payload, job", "ctx"),
    "context": ("context, None", None),
    "payload, retries: int = 3, *rest, **more": ("payload, retries", 3),
    "payload, context: str = 'its own'": ("payload, context", "its own"),
}


@pytest.mark.parametrize("parameters", CALLED_WITH)
async def test_what_a_handler_is_called_with(parameters: str) -> None:
    returned, second = CALLED_WITH[parameters]

    await check_call(function(f"async def f({parameters}): return {returned}"), (1, second))


async def check_call(called: Callable[..., object], returned: tuple[object, object]) -> None:
    handler = Handler.of(called)
    given = (1, "ctx") if handler.takes_context else (1,)

    assert await handler.call(*given) == returned


BY_KEYWORD = function("async def f(payload, *, job: JobContext): return payload, job")
FIRST = function("async def f(job: JobContext, payload): return payload, job")
BY_CLASS = function("async def f(payload, job: JobContext): return payload, job")
WITH_RETRIES = function("async def f(payload, job: JobContext, retries=3): return retries, job")
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


PAYLOAD_ALONE = "but a plain function gets the payload alone, and only an async one the job's"


def or_annotate(name: str, *, call: bool = False) -> str:
    called = ", or call it context," if call else ""
    return f"{ONE_PAYLOAD}, or annotate {name!r} as JobContext{called} if it is the job's context"


# By the parameters of an async function.
REFUSED = {
    # The first three have arq's order.
    "ctx, n: int": "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)",
    "ctx, n=1": "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)",
    "ctx, *, n": "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)",
    "job: JobContext": (
        "takes the job's context, 'job', in place of the payload: write (payload, job: JobContext)"
    ),
    "a: int, b: int, c: int": f"takes 'a', 'b', 'c', but {ONE_PAYLOAD}",
    "a: int, *, b: int": f"takes 'a', 'b', but {or_annotate('b')}",
    "payload, job": f"takes 'payload', 'job', but {or_annotate('job', call=True)}",
    "self, payload": f"takes 'self', 'payload', but {or_annotate('payload', call=True)}",
    "payload, context: JobContext, subject": f"takes 'payload', 'subject', but {ONE_PAYLOAD}",
    "payload, context: JobContext, job: JobContext": (
        "takes the job's context more than once: 'context', 'job'"
    ),
    "payload, retries=3, job: JobContext | None = None, /": (
        "takes the job's context, 'job', behind others by position only: write (payload, job:"
        " JobContext)"
    ),
    "*, payload": "cannot be called with a payload: it takes 'payload' by its name only",
    "**payload": "cannot be called with a payload: it takes none by position",
}


@pytest.mark.parametrize("parameters", REFUSED)
def test_another_shape_is_refused_with_what_to_write(parameters: str) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function(f"async def f({parameters}): ..."))

    assert str(refusal.value) == REFUSED[parameters]


def test_another_shape_of_a_partial_is_refused_as_well() -> None:
    three = function("async def f(a: int, b: int, c: int): ...")

    with pytest.raises(HandlerError) as refusal:
        Handler.of(functools.partial(three, 1))

    assert str(refusal.value) == f"takes 'b', 'c', but {or_annotate('c')}"


@pytest.mark.parametrize("run", ["thread", "process"])
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("payload, job", f"takes 'payload', 'job', {PAYLOAD_ALONE} context; {ONE_PAYLOAD}"),
        (
            "payload, job: JobContext",
            f"takes 'payload', 'job', {PAYLOAD_ALONE} context; {ONE_PAYLOAD}",
        ),
        (
            "payload, job: JobContext | None = None",
            f"takes 'payload', 'job', {PAYLOAD_ALONE} context; {ONE_PAYLOAD}",
        ),
        ("to: str, subject: str", f"takes 'to', 'subject', but {ONE_PAYLOAD}"),
    ],
)
def test_a_plain_function_gets_the_payload_alone(parameters: str, message: str, run: str) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function(f"def f({parameters}): ..."), run=run)

    assert str(refusal.value) == message


def test_a_plain_functions_own_context_is_its_own() -> None:
    def fetch(url, context=None):
        return url, context

    assert not Handler.of(fetch).takes_context


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

"""What a handler is called with: a function of another shape is refused, with what to write."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ANN204, B019
# What is not annotated is what these are about.

import functools
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

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


# What each is called with for the payload 1: "ctx" stands for the context.


async def by_class(payload, job: JobContext):
    return payload, job


async def with_default(payload, job: JobContext | None = None):
    return payload, job


async def by_name(payload, context):
    return payload, context


async def by_short_name(payload, ctx):
    return payload, ctx


async def by_name_with_default(payload, context=None):
    return payload, context


async def by_keyword(payload, *, job: JobContext):
    return payload, job


async def by_keyword_with_default(payload, *, job: JobContext | None = None):
    return payload, job


async def by_keyword_and_name(payload, *, context):
    return payload, context


async def first(job: JobContext, payload):
    return payload, job


async def first_by_position(job: JobContext, payload, /):
    return payload, job


async def first_of_any_number(job: JobContext, *payloads: int):
    return *payloads, job


async def behind_its_own(payload, retries=3, job: JobContext | None = None):
    assert retries == 3
    return payload, job


async def behind_any_number(*payloads, job: JobContext):
    return *payloads, job


async def payload_of_that_name(context, job: JobContext):
    return context, job


async def payload_with_default(job: JobContext, payload: int = 7):
    return payload, job


async def alone_of_that_name(context):
    return context, None


async def its_own(payload, retries: int = 3, *rest, **more):
    assert (retries, rest, more) == (3, (), {})
    return payload, None


async def annotated_otherwise(payload, context: str = "its own"):
    assert context == "its own"
    return payload, None


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


async def bound_before(payload, job: JobContext, retries=3):
    return payload, job if retries == 4 else None


async def bound_context(payload, context):
    assert context == "bound"
    return payload, None


@pytest.mark.parametrize(
    ("function", "called_with"),
    [
        (by_class, (1, "ctx")),
        (with_default, (1, "ctx")),
        (by_name, (1, "ctx")),
        (by_short_name, (1, "ctx")),
        (by_name_with_default, (1, "ctx")),
        (by_keyword, (1, "ctx")),
        (by_keyword_with_default, (1, "ctx")),
        (by_keyword_and_name, (1, "ctx")),
        (first, (1, "ctx")),
        (first_by_position, (1, "ctx")),
        (first_of_any_number, (1, "ctx")),
        (behind_its_own, (1, "ctx")),
        (behind_any_number, (1, "ctx")),
        (payload_of_that_name, (1, "ctx")),
        (payload_with_default, (1, "ctx")),
        (alone_of_that_name, (1, None)),
        (its_own, (1, None)),
        (annotated_otherwise, (1, None)),
        pytest.param(passed_on(by_keyword), (1, "ctx"), id="passed on"),
        pytest.param(passed_on(first), (1, "ctx"), id="first, passed on"),
        pytest.param(passed_on_by_position(by_class), (1, "ctx"), id="passed on by position"),
        (ACallable(), (1, "ctx")),
        (ACallable().method, (1, "ctx")),
        (functools.partial(bound_before, retries=4), (1, "ctx")),
        (functools.partial(bound_context, context="bound"), (1, None)),
    ],
)
async def test_what_a_handler_is_called_with(
    function: Callable[..., object], called_with: tuple[object, object]
) -> None:
    handler = Handler.of(function)
    given = (1, "ctx") if handler.takes_context else (1,)

    assert await handler.call(*given) == called_with


async def test_the_context_comes_wherever_it_stands() -> None:
    async def send(job: JobContext, to: int) -> object:
        return [to, job.type]

    async with open_jobs({"send": send}) as jobs:
        assert await jobs.result(jobs.submit("send", 1).id) == [1, "send"]
        with pytest.raises(trio_jobs.PayloadError):  # by the second parameter's type
            jobs.submit("send", "text")


async def add(ctx, n: int):
    """Has arq's order."""


async def add_by_default(ctx, n=1): ...


async def add_by_keyword(ctx, *, n): ...


async def only(job: JobContext): ...


async def three(a: int, b: int, c: int): ...


async def keyword(a: int, *, b: int): ...


async def unannotated(payload, job): ...


async def unannotated_method(self, payload): ...


async def third(payload, context: JobContext, subject): ...


async def twice(payload, context: JobContext, job: JobContext): ...


async def by_position_behind(payload, retries=3, job: JobContext | None = None, /): ...


async def keyword_alone(*, payload): ...


async def any_keyword(**payload): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (add, "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)"),
        (
            add_by_default,
            "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)",
        ),
        (
            add_by_keyword,
            "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)",
        ),
        (
            only,
            (
                "takes the job's context, 'job', in place of the payload: write (payload, job:"
                " JobContext)"
            ),
        ),
        (three, f"takes 'a', 'b', 'c', but {ONE_PAYLOAD}"),
        (
            keyword,
            (
                f"takes 'a', 'b', but {ONE_PAYLOAD}, or annotate 'b' as JobContext if it is the"
                " job's context"
            ),
        ),
        (
            unannotated,
            (
                f"takes 'payload', 'job', but {ONE_PAYLOAD}, or annotate 'job' as JobContext, or"
                " call it context, if it is the job's context"
            ),
        ),
        (
            unannotated_method,
            (
                f"takes 'self', 'payload', but {ONE_PAYLOAD}, or annotate 'payload' as JobContext,"
                " or call it context, if it is the job's context"
            ),
        ),
        (third, f"takes 'payload', 'subject', but {ONE_PAYLOAD}"),
        (twice, "takes the job's context more than once: 'context', 'job'"),
        (
            by_position_behind,
            (
                "takes the job's context, 'job', behind others by position only: write (payload,"
                " job: JobContext)"
            ),
        ),
        (
            keyword_alone,
            "cannot be called with a payload: it takes 'payload' by its name only",
        ),
        (any_keyword, "cannot be called with a payload: it takes none by position"),
        (
            functools.partial(three, 1),
            (
                f"takes 'b', 'c', but {ONE_PAYLOAD}, or annotate 'c' as JobContext if it is the"
                " job's context"
            ),
        ),
    ],
)
def test_another_shape_is_refused_with_what_to_write(
    function: Callable[..., object], message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function)

    assert str(refusal.value) == message


def plain_unannotated(payload, job): ...


def plain_context(payload: object, job: JobContext) -> None: ...


def plain_context_with_default(payload: object, job: JobContext | None = None) -> None: ...


def plain_two(to: str, subject: str) -> None: ...


@pytest.mark.parametrize("run", ["thread", "process"])
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            plain_unannotated,
            (
                "takes 'payload', 'job', but a plain function gets the payload alone, and only an"
                f" async one the job's context; {ONE_PAYLOAD}"
            ),
        ),
        (
            plain_context,
            (
                "takes 'payload', 'job', but a plain function gets the payload alone, and only an"
                f" async one the job's context; {ONE_PAYLOAD}"
            ),
        ),
        (
            plain_context_with_default,
            (
                "takes 'payload', 'job', but a plain function gets the payload alone, and only an"
                f" async one the job's context; {ONE_PAYLOAD}"
            ),
        ),
        (plain_two, f"takes 'to', 'subject', but {ONE_PAYLOAD}"),
    ],
)
def test_a_plain_function_gets_the_payload_alone(
    function: Callable[..., object], message: str, run: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function, run=run)

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


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("Shop.send", "Shop"),
        ("Shop.wrapped", "Shop"),
        ("Shop.cached", "Shop"),
        ("Shop.passed", "Shop"),
        ("Shop.decorated", "Shop"),
        ("Shop.told", "Shop"),
        ("Shop.to_you", "Shop"),
        ("Derived.send", "Derived"),
        ("Derived.cached", "Derived"),
        ("Shop.Inner.send", "Shop.Inner"),
    ],
)
def test_a_method_without_its_instance_is_refused_where_it_is_loaded(
    name: str, class_name: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        load_function(f"{__name__}:{name}")

    assert str(refusal.value) == (
        f"is a method of class {class_name}: name one of an instance, or make it a staticmethod"
    )


@pytest.mark.parametrize(
    ("function", "class_name"),
    [
        (Shop.send, "Shop"),
        (Shop.Inner.send, "Shop.Inner"),
        (Shop.cached, "Shop"),
        (Shop.passed, "Shop"),
        (Shop.decorated, "Shop"),
        (Shop.told, "Shop"),
        (Shop.to_you, "Shop"),
        (functools.partial(Shop.passed), "Shop"),
        (functools.partial(Shop.send, to="you"), "Shop"),
        (functools.partial(functools.partial(Shop.cached)), "Shop"),
        pytest.param(functools.cache(Shop.passed), "Shop", id="around"),
    ],
)
async def test_a_method_without_its_instance_is_refused_by_open_jobs(
    function: Callable[..., object], class_name: str
) -> None:
    with pytest.raises(HandlerError, match=f"is a method of class {class_name}: name one of an"):
        async with open_jobs({"send": function}):
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
    "name",
    ["shop.send", "shop.wrapped", "Shop.static", "Shop.passed_static", "Shop.of_class"],
)
async def test_a_method_that_is_bound_or_needs_no_instance_is_a_handler(name: str) -> None:
    function = load_function(f"{__name__}:{name}")

    async with open_jobs({"send": Handler.of(function, name=f"{__name__}:{name}")}) as jobs:
        result = await jobs.result(jobs.submit("send", "you").id)

    assert result in {"you", "sent to you"}


@pytest.mark.parametrize(
    "function",
    [functools.partial(Shop.send, shop), functools.partial(Shop().send), str.upper],
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


def test_public_names_are_what_the_messages_say() -> None:
    assert trio_jobs.JobContext.__name__ == "JobContext"

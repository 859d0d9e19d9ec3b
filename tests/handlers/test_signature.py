"""What a handler is called with: a function of another shape is refused, with what to write."""

import functools
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest

import trio_jobs
from trio_jobs import Handler, HandlerError, open_jobs
from trio_jobs.handlers import JobContext, load_function

Ctx = JobContext

if TYPE_CHECKING:
    # To be found by nobody but a type checker.
    from trio_jobs.handlers import JobContext as Hidden

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


async def unannotated(payload, job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Gets the context."""


async def context_last(context, job: JobContext) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Has a payload that is called so."""


@pytest.mark.parametrize("function", [unannotated, context_last])
def test_an_unannotated_second_parameter_is_the_context(function: Callable[..., object]) -> None:
    assert Handler.of(function).takes_context


async def add(ctx, n: int) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001


async def add_unannotated(ctx, n):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Has arq's order."""


async def add_annotated(job: JobContext, n: int) -> None: ...


async def only(job: JobContext) -> None: ...


async def three(a: int, b: int, c: int) -> None: ...


async def keyword(a: int, *, b: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (add, "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)"),
        (
            add_unannotated,
            "takes the job's context, 'ctx', before the payload: write (n, ctx: JobContext)",
        ),
        (
            add_annotated,
            "takes the job's context, 'job', before the payload: write (n, job: JobContext)",
        ),
        (
            only,
            (
                "takes the job's context, 'job', in place of the payload: write (payload, job:"
                " JobContext)"
            ),
        ),
        (
            three,
            (
                "cannot be called with a payload: missing a required argument: 'b'; it takes 'a',"
                f" 'b', 'c', and {ONE_PAYLOAD}"
            ),
        ),
        (functools.partial(three, 1), f"takes 'b', 'c', but {ONE_PAYLOAD}, or annotate 'c' as"),
    ],
)
def test_another_order_or_number_is_refused_with_what_to_write(
    function: Callable[..., object], message: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function)

    assert str(refusal.value).startswith(message)


def plain_unannotated(payload, job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Is plain."""


def plain_context(payload: object, job: JobContext) -> None: ...


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
        (plain_two, f"takes 'to', 'subject', but {ONE_PAYLOAD}"),
    ],
)
def test_a_plain_function_gets_the_payload_alone(
    function: Callable[..., object], message: str, run: str
) -> None:
    with pytest.raises(HandlerError) as refusal:
        Handler.of(function, run=run)

    assert str(refusal.value) == message


class Shop:
    """Has all kinds of methods."""

    async def send(self, to: str) -> str:
        return f"sent to {to}"

    @functools.wraps(send)
    async def wrapped(self, to: str) -> str:
        return await self.send(to)

    @staticmethod
    async def static(to: str) -> str:
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
        ("Derived.send", "Derived"),
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
    [(Shop.send, "Shop"), (Shop.Inner.send, "Shop.Inner")],
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


@pytest.mark.parametrize("name", ["shop.send", "shop.wrapped", "Shop.static", "Shop.of_class"])
async def test_a_method_that_is_bound_or_needs_no_instance_is_a_handler(name: str) -> None:
    function = load_function(f"{__name__}:{name}")

    async with open_jobs({"send": Handler.of(function, name=f"{__name__}:{name}")}) as jobs:
        result = await jobs.result(jobs.submit("send", "you").id)

    assert result in {"you", "sent to you"}


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

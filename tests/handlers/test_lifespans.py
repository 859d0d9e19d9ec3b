"""What the handlers of a place share: opened before the first job, closed after the last one."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, assert_type

import pytest
import trio

from tests.handlers.support import wait_until_set
from tests.support import HandlerRegistry
from trio_jobs import (
    Handler,
    HandlerError,
    JobContext,
    LifespanError,
    Outcome,
    open_jobs,
)
from trio_jobs.handlers.places import Places

# Each place with the loops of asyncio.
PLACES = [("trio", "asyncio"), ("asyncio", "asyncio"), ("asyncio", "uvloop"), ("thread", "asyncio")]

in_each_place = pytest.mark.parametrize(("place", "loop"), PLACES)


class Shop:
    """What a lifespan opens; notes what happens to it."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def sell(self) -> str:
        self.notes.append("sold")
        return "sold"


class Shared:
    """Lifespans and handlers, of each place, that behave in the same way."""

    def __init__(self, place: str, loop: str) -> None:
        self.place = place
        self.loop = loop
        self.notes: list[str] = []
        self.at_opening: Callable[[], None] = lambda: None
        self.at_closing: Callable[[], None] = lambda: None
        self.begun = threading.Event()

    @contextmanager
    def plain(self) -> Iterator[Shop]:
        self.at_opening()
        self.notes.append("opened")
        yield Shop(self.notes)
        self.notes.append("closing")
        self.at_closing()
        self.notes.append("closed")

    @asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[Shop]:
        await self.pass_checkpoint()
        with self.plain() as shop:
            yield shop
            await self.pass_checkpoint()

    async def pass_checkpoint(self) -> None:
        if self.place == "asyncio":
            await asyncio.sleep(0)
        else:
            await trio.lowlevel.checkpoint()

    @property
    def lifespan(self) -> dict[str, object]:
        return {self.place: self.plain if self.place == "thread" else self.asynchronous}

    def handler(self) -> Handler:
        if self.place == "thread":
            return Handler.of(self.sell)
        return Handler.of(self.sell_async, run=self.place)

    def sell(self, _payload: object, context: JobContext[Shop]) -> str:
        assert_type(context.state, Shop)
        return context.state.sell()

    async def sell_async(self, payload: object, context: JobContext[Shop]) -> str:
        await self.pass_checkpoint()
        return self.sell(payload, context)

    def waiting_handler(self) -> Handler:
        if self.place == "thread":
            return Handler.of(self.wait)
        return Handler.of(self.wait_async, run=self.place)

    def wait(self, _payload: object, context: JobContext[Shop]) -> None:
        self.begun.set()
        while not context.cancelled():
            pass
        context.state.sell()

    async def wait_async(self, _payload: object, context: JobContext[Shop]) -> None:
        self.begun.set()
        try:
            if self.place == "asyncio":
                await asyncio.sleep(3600)
            await trio.sleep_forever()
        finally:
            context.state.sell()

    def open(self, *handlers: Handler, **options: Any) -> Any:  # noqa: ANN401 - as `open_jobs`
        table = {"work": (handlers or (self.handler(),))[0]}
        return open_jobs(table, lifespan=self.lifespan, asyncio_loop=self.loop, **options)  # type: ignore[call-overload]


@pytest.fixture
def shared(place: str, loop: str) -> Shared:
    return Shared(place, loop)


@in_each_place
async def test_it_is_open_while_jobs_run(shared: Shared) -> None:
    async with shared.open() as jobs:
        assert shared.notes == ["opened"]
        for _ in range(2):
            jobs.submit("work")

    assert shared.notes == ["opened", "sold", "sold", "closing", "closed"]


@in_each_place
async def test_it_outlives_the_jobs_that_a_cancel_ends(shared: Shared) -> None:
    with trio.CancelScope() as scope:
        async with shared.open(shared.waiting_handler()) as jobs:
            jobs.submit("work")
            await wait_until_set(shared.begun)
            scope.cancel()

    if shared.place == "thread":  # which is left behind, and goes on unseen
        shared.notes = [each for each in shared.notes if each != "sold"]
        assert shared.notes == ["opened", "closing", "closed"]
    else:
        assert shared.notes == ["opened", "sold", "closing", "closed"]


@in_each_place
async def test_it_closes_when_the_block_raises(shared: Shared) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with shared.open():
            raise KeyError("mine")

    assert shared.notes == ["opened", "closing", "closed"]


@in_each_place
async def test_one_that_fails_to_open_is_an_error_that_names_it(shared: Shared) -> None:
    def fail() -> None:
        raise ConnectionRefusedError("no database")

    shared.at_opening = fail

    with pytest.raises(LifespanError) as caught:
        async with shared.open():
            pytest.fail("it has opened")

    assert str(caught.value).startswith(
        f"lifespan.{shared.place} = 'tests.handlers.test_lifespans:"
    )
    assert ": ConnectionRefusedError: no database (" in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@in_each_place
async def test_an_exit_while_it_opens_is_an_error_too(shared: Shared) -> None:
    def leave() -> None:
        raise SystemExit(3)

    shared.at_opening = leave

    with pytest.raises(LifespanError, match="SystemExit: 3"):
        async with shared.open():
            pytest.fail("it has opened")


@in_each_place
async def test_one_that_fails_to_close_is_logged(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("not flushed")

    shared.at_closing = fail

    async with shared.open() as jobs:
        job = jobs.submit("work")

    assert jobs.get(job.id).outcome is Outcome.SUCCEEDED
    [record] = [each for each in caplog.records if each.message == "lifespan_close_failed"]
    assert record.__dict__["place"] == shared.place
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "not flushed"


@in_each_place
async def test_one_that_returns_no_context_manager_is_an_error(shared: Shared) -> None:
    needed = "a context manager that is not async" if shared.place == "thread" else "an async"

    with pytest.raises(LifespanError, match=f"TypeError: must return {needed}"):
        async with open_jobs({"work": shared.handler()}, lifespan={shared.place: dict}):
            pytest.fail("it has opened")


@in_each_place
async def test_the_program_may_have_opened_it_itself(shared: Shared) -> None:
    state = {shared.place: Shop(shared.notes)}

    async with open_jobs({"work": shared.handler()}, state=state) as jobs:
        assert await jobs.result(jobs.submit("work").id) == "sold"

    with pytest.raises(
        HandlerError, match=f"there are two states for the place of '{shared.place}'"
    ):
        async with open_jobs({"work": shared.handler()}, state=state, lifespan=shared.lifespan):
            pytest.fail("it has opened")


@in_each_place
async def test_without_one_there_is_no_state(shared: Shared) -> None:
    async with open_jobs({"work": shared.handler()}) as jobs:
        job = await jobs.wait(jobs.submit("work").id)

    assert job.ending is not None
    assert job.ending.error is not None
    assert job.ending.error.message == "'NoneType' object has no attribute 'sell'"


@in_each_place
async def test_jobs_of_a_file_run_when_it_is_open(shared: Shared, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with suppress(KeyError):
        async with shared.open(shared.waiting_handler(), path=path, workers=1) as jobs:
            waiting = [await jobs.submit("work") for _ in range(3)][1:]
            await wait_until_set(shared.begun)
            raise KeyError
    shared.notes = []  # a thread of the first pool may still write into the other

    async with shared.open(path=path, drain="all") as jobs:
        assert shared.notes[0] == "opened"
        for job in waiting:
            assert (await jobs.wait(job.id)).outcome is Outcome.SUCCEEDED

    assert shared.notes[-1] == "closed"


# What ends by itself. ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fails", "ends"])
@pytest.mark.parametrize(("place", "loop"), PLACES[:3])
async def test_one_that_ends_while_jobs_run_ends_the_block(
    place: str,
    loop: Literal["asyncio", "uvloop"],
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    let = threading.Event()

    @asynccontextmanager
    async def on_trio() -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def fail() -> None:
                await wait_until_set(let)
                if how == "fails":
                    raise ConnectionResetError("gone")
                nursery.cancel_scope.cancel()

            yield

    @asynccontextmanager
    async def on_asyncio() -> AsyncIterator[None]:
        held = asyncio.current_task()
        assert held is not None

        async def fail() -> None:
            await asyncio.to_thread(let.wait)
            if how == "fails":
                raise ConnectionResetError("gone")
            held.cancel()

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            with suppress(asyncio.CancelledError) if how == "ends" else nullcontext():
                yield

    async def handler(_payload: object) -> None:
        let.set()
        if place == "trio":
            await trio.sleep_forever()
        await asyncio.sleep(3600)

    with pytest.RaisesGroup(
        ConnectionResetError if how == "fails" else RuntimeError, flatten_subgroups=True
    ):
        async with open_jobs(
            {"work": Handler.of(handler, run=place)},
            lifespan={place: on_trio if place == "trio" else on_asyncio},
            asyncio_loop=loop,
        ) as jobs:
            jobs.submit("work")
            await trio.sleep_forever()

    [record] = [each for each in caplog.records if each.message == "lifespan_failed"]
    assert record.__dict__["place"] == place


# Several. ---------------------------------------------------------------------------------------


def noting(notes: list[str], name: str, *, fails: bool = False) -> Callable[[], Any]:
    """A plain lifespan."""

    @contextmanager
    def lifespan() -> Iterator[str]:
        if fails:
            raise OSError(name)
        notes.append(f"{name} opened")
        yield name
        notes.append(f"{name} closed")

    return lifespan


def asynchronous(notes: list[str], name: str, pause: Callable[[float], Any]) -> Callable[[], Any]:
    """An async lifespan, which waits while it closes."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        with noting(notes, name)() as state:
            yield state
            await pause(0.01)

    return lifespan


async def on_trio(_payload: object, context: JobContext) -> object:
    return context.state


async def on_asyncio(_payload: object, context: JobContext) -> object:
    return context.state


def in_thread(_payload: object, context: JobContext) -> object:
    return context.state


HANDLERS = {
    "trio": Handler.of(on_trio),
    "asyncio": Handler.of(on_asyncio, run="asyncio"),
    "thread": Handler.of(in_thread),
}


async def test_a_handler_gets_what_its_own_place_has_opened() -> None:
    notes: list[str] = []
    lifespan = {
        "trio": asynchronous(notes, "trio", trio.sleep),
        "asyncio": asynchronous(notes, "asyncio", asyncio.sleep),
        "thread": noting(notes, "thread"),
    }

    async with open_jobs(HANDLERS, lifespan=lifespan) as jobs:
        for name in HANDLERS:
            assert await jobs.result(jobs.submit(name).id) == name

    assert sorted(notes[:3]) == ["asyncio opened", "thread opened", "trio opened"]
    assert sorted(notes[3:]) == ["asyncio closed", "thread closed", "trio closed"]


async def test_those_that_have_opened_close_as_at_the_end_if_another_does_not_open() -> None:
    notes: list[str] = []
    lifespan = {
        "trio": asynchronous(notes, "trio", trio.sleep),
        "asyncio": asynchronous(notes, "asyncio", asyncio.sleep),
        "thread": noting(notes, "thread", fails=True),
    }

    with pytest.raises(LifespanError, match=r"^lifespan\.thread = "):
        async with open_jobs(HANDLERS, lifespan=lifespan):
            pytest.fail("it has opened")

    assert notes[:2] == ["asyncio opened", "trio opened"]
    assert sorted(notes[2:]) == ["asyncio closed", "trio closed"]


async def test_a_cancel_while_one_opens_closes_the_others() -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def hangs() -> AsyncIterator[None]:
        scope.cancel()
        await trio.sleep_forever()
        yield

    with trio.CancelScope() as scope:
        async with open_jobs(
            HANDLERS,
            lifespan={"trio": hangs, "asyncio": asynchronous(notes, "asyncio", asyncio.sleep)},
        ):
            pytest.fail("it has opened")

    assert scope.cancelled_caught
    assert notes == ["asyncio opened", "asyncio closed"]


async def test_async_is_the_place_of_async_handlers() -> None:
    notes: list[str] = []
    lifespan = asynchronous(notes, "asyncio", asyncio.sleep)

    async with open_jobs(
        {"work": on_asyncio}, async_handlers="asyncio", lifespan={"async": lifespan}
    ) as jobs:
        assert await jobs.result(jobs.submit("work").id) == "asyncio"
    async with open_jobs({"work": on_trio}, state={"async": 7}) as jobs:
        assert await jobs.result(jobs.submit("work").id) == 7


@pytest.mark.parametrize("place", ["process", "gevent"])
async def test_a_program_cannot_give_the_state_of_another_place(place: str) -> None:
    with pytest.raises(HandlerError, match=f"there is no state for '{place}'"):
        async with open_jobs(HANDLERS, state={place: 1}):
            pytest.fail("it has opened")


class EnteredInBothWays:
    """What many clients are: a context manager of both kinds."""

    def __enter__(self) -> str:
        return "plain"

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> str:
        return "async"

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_a_class_may_be_a_lifespan() -> None:
    lifespan = dict.fromkeys(HANDLERS, EnteredInBothWays)

    async with open_jobs(HANDLERS, lifespan=lifespan) as jobs:
        states = [await jobs.result(jobs.submit(name).id) for name in HANDLERS]

    assert states == ["async", "async", "plain"]


async def a_coroutine() -> None: ...


async def an_async_generator() -> AsyncIterator[None]:
    yield


def a_generator() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("place", "function", "complaint"),
    [
        ("trio", 7, "is not callable: 7"),
        ("trio", a_coroutine, "is a coroutine function, which makes no context manager"),
        ("trio", an_async_generator, "is a generator function: decorate it with contextlib.async"),
        ("thread", a_generator, "is a generator function: decorate it with contextlib.contextm"),
        ("trio", contextmanager(a_generator), "makes a plain context manager; the place needs an"),
        (
            "thread",
            asynccontextmanager(an_async_generator),
            "makes an async context manager; the place needs a plain one",
        ),
        ("trio", lambda app: app, "must take no arguments: missing a required argument: 'app'"),
        ("gevent", EnteredInBothWays, "belongs to one of 'async', 'trio', 'asyncio', 'thread',"),
        ("process", EnteredInBothWays, "has no use: no handler runs there"),
    ],
)
async def test_what_can_be_no_lifespan_is_refused(
    place: str, function: object, complaint: str
) -> None:
    with pytest.raises(HandlerError) as caught:
        async with open_jobs(HANDLERS, lifespan={place: function}):
            pytest.fail("it has opened")

    assert str(caught.value).startswith(f"the lifespan '{place}' {complaint}")


async def test_a_stop_before_the_start_enters_the_block_if_no_lifespan_opens() -> None:
    handlers = {**HANDLERS, "process": Handler.of(in_thread, run="process")}
    places = Places(HandlerRegistry(handlers), workers=1)
    opening = trio.CancelScope()
    opening.cancel()
    entered = False

    async with places.open(opening):
        entered = True

    assert entered
    assert not places.faulty


async def test_lifespans_close_also_if_no_time_is_given() -> None:
    notes: list[str] = []
    functions = {"trio": asynchronous(notes, "trio", trio.sleep), "thread": noting(notes, "thread")}
    registry = HandlerRegistry.of(HANDLERS, lifespan=functions)
    places = Places(registry, workers=1)

    async with places.open(seconds=0):
        notes.clear()

    assert sorted(notes) == ["thread closed", "trio closed"]
    assert not places.faulty

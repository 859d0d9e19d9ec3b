"""The rules of the design that may not bend, as far as a program can check them.

Each rule is a function from a module's syntax tree to the places where it is
broken. It is tried on the project's code, and on lines that break it: a rule
that cannot fail checks nothing. Layers are checked by `lint-imports`.
"""

import ast
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

import trio_jobs
from tests.support import MemoryStore
from trio_jobs.pool.admission import Admission

SOURCE = Path(trio_jobs.__file__).parent
MODULES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}
WORKER_LAYER = (
    "pool/worker.py",
    "pool/store.py",
    "stores/memory.py",
    "job.py",
    "pool/admission.py",
    "pool/capacity.py",
    "pool/schedule.py",
)

Rule = Callable[[ast.Module], Iterator[ast.AST]]

# Sleeping, in any of its forms. (`sleep_forever` waits to be cancelled: that is none of them.)
SLEEPS = {"sleep", "sleep_until"}

# What holds others off, or holds jobs: of the latter there is one, the channel.
LOCKS = {"Lock", "RLock", "StrictFIFOLock", "Semaphore", "BoundedSemaphore", "CapacityLimiter"}
LOCKS |= {"Condition", "Barrier"}
QUEUES = {"open_memory_channel", "Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"}

# What a module may make once, when it is imported: values, and tools without a memory.
CONSTANTS = {"frozenset", "MappingProxyType", "compile", "maketrans", "bytes", "tuple"}
CONSTANTS |= {
    "Path",
    "Ending",
    "Later",
    "Struct",
    "time_ns",
    "datetime",
    "timedelta",
    "join",
    "len",
}
CONSTANTS |= {"_insert", "_update", "_call"}  # the texts of SQL statements, which nobody changes
CONSTANTS |= {
    "PoolSettings",
    "StoreSettings",
    "HttpSettings",
    "MetricsSettings",
    "RetrySettings",
    "Setting",
    "JobQuery",
    "Access",
    "Want",
    "replace",
}
TOOLS = {
    "getLogger",
    "ContextVar",
    "Decoder",
    "Encoder",
    "TypeVar",
    "TypeVarTuple",
    "ParamSpec",
    "NewType",
    "Raw",
}
TOOLS |= {"partial"}
TOOLS |= {"RunVar", "StashKey"}  # as a ContextVar: a run, or a test, holds the value
MUTATORS = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop"}
MUTATORS |= {"popitem", "popleft", "remove", "setdefault", "update", "sort", "reverse"}
DISPLAYS = (ast.List, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp)


@cache
def tree_of(module: str) -> ast.Module:
    """What the project's module says."""
    return ast.parse(MODULES[module].read_text())


@cache
def walk(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Every node of a tree; each rule looks at those of every module."""
    return tuple(ast.walk(tree))


def name_of(node: ast.AST) -> str:
    """The last part of a dotted name."""
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    return getattr(node, "attr", getattr(node, "id", ""))


def calls_of(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    for node in walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) in names:
            yield node


def sleeps_in_loops(tree: ast.Module) -> Iterator[ast.AST]:
    for node in walk(tree):
        if isinstance(node, ast.For | ast.AsyncFor | ast.While):
            yield from calls_of(node, SLEEPS)


def sleeps(tree: ast.Module) -> Iterator[ast.AST]:
    yield from calls_of(tree, SLEEPS)


def locks_and_queues(tree: ast.Module) -> Iterator[ast.AST]:
    yield from calls_of(tree, LOCKS | QUEUES)
    for node in walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                modules.append(node.module or "")
            if {"asyncio", "multiprocessing", "queue", "threading"} & set(modules):
                yield node


def busy_waits(tree: ast.Module) -> Iterator[ast.AST]:
    for node in walk(tree):
        if isinstance(node, ast.While):
            yield from calls_of(node, {"checkpoint", "cancel_shielded_checkpoint"})


def clones(tree: ast.Module) -> Iterator[ast.AST]:
    for call in calls_of(tree, {"clone"}):
        if not (isinstance(call.func, ast.Attribute) and name_of(call.func.value) == "receive"):
            yield call


def waiting_sends(tree: ast.Module) -> Iterator[ast.AST]:
    yield from calls_of(tree, {"send"})


def global_statements(tree: ast.Module) -> Iterator[ast.AST]:
    for node in walk(tree):
        if isinstance(node, ast.Global):
            yield node


def mutable_globals(tree: ast.Module) -> Iterator[ast.AST]:
    """Module and class variables with a value that can change, but for constants left alone."""
    bodies = [tree.body, *(node.body for node in walk(tree) if isinstance(node, ast.ClassDef))]
    for statement in (statement for body in bodies for statement in body):
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = {name_of(target) for target in targets} - {"__all__"}
        if isinstance(statement.value, DISPLAYS):
            if not all(name.isupper() for name in names) or names & changed_names(tree):
                yield statement
        elif statement in tree.body and any(
            name_of(call.func) not in CONSTANTS | TOOLS for call in outermost_calls(statement.value)
        ):
            yield statement


def outermost_calls(value: ast.expr) -> Iterator[ast.Call]:
    # What is made inside of a call that is allowed ends up in what that makes.
    if isinstance(value, ast.Call):
        yield value
    elif not isinstance(value, ast.Lambda | ast.Subscript):
        for child in ast.iter_child_nodes(value):
            if isinstance(child, ast.expr):
                yield from outermost_calls(child)


def changed_names(tree: ast.Module) -> set[str]:
    """Names whose items are assigned or deleted, or on which something like `append` is called."""
    changed = set()
    for node in walk(tree):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            changed.add(name_of(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in MUTATORS:
                changed.add(name_of(node.func.value))
        elif isinstance(node, ast.AugAssign):
            changed.add(name_of(node.target))
    return changed


# Where each rule holds; in all of the code unless it says otherwise.
RULES: dict[Rule, tuple[str, ...]] = {
    sleeps: WORKER_LAYER,
    locks_and_queues: WORKER_LAYER,
    busy_waits: WORKER_LAYER,
    waiting_sends: WORKER_LAYER,
    sleeps_in_loops: tuple(MODULES),
    clones: tuple(MODULES),
    global_statements: tuple(MODULES),
    mutable_globals: tuple(MODULES),
}

# Each with its reason.
EXCEPTIONS: dict[tuple[Rule, str], list[str]] = {
    # Held by who waits for room to submit, so that they get in in the order in which they came.
    # No worker has to do with it.
    (locks_and_queues, "pool/capacity.py"): ["self._fifo = trio.StrictFIFOLock()"],
    # Out of descriptors: nothing tells when one comes free.
    (sleeps_in_loops, "server/listener.py"): ["await trio.sleep(_ACCEPT_RETRY)"],
    # Somebody outside kills idle processes: nothing tells when that is over.
    (sleeps_in_loops, "handlers/process_pool.py"): ["await trio.sleep(_PAUSE_AFTER_DEATH)"],
    # By the clock: what a person sees of a run, and how much of its results an end may cost.
    (sleeps_in_loops, "commands/run/screen.py"): ["await trio.sleep(seconds)"],
    (sleeps_in_loops, "commands/run/run.py"): ["await trio.sleep(FLUSH_SECONDS)"],
    # Counts what happens to the process as a whole: forks, which nothing else tells of.
    (mutable_globals, "handlers/handler.py"): ["FORKS = _Forks()"],
    # A function, made a fixture after it has been marked.
    (mutable_globals, "testing/plugin.py"): ["jobs = pytest.fixture(jobs)"],
    # Each thread has values of its own.
    (mutable_globals, "testing/thread_sleep.py"): ["_of_thread = _OfThread()"],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_code_keeps_the_rule(rule: Rule) -> None:
    broken = []
    for name in RULES[rule]:
        for place in rule(tree_of(name)):
            assert isinstance(place, ast.stmt | ast.expr)
            line = MODULES[name].read_text().splitlines()[place.lineno - 1].strip()
            if line not in EXCEPTIONS.get((rule, name), []):
                broken.append(f"{name}:{place.lineno}: {line}")

    assert broken == []


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (sleeps, "async def f(): await trio.sleep(1)"),
        (sleeps, "async def f(): await sleep_until(1)"),
        (locks_and_queues, "lock = trio.Lock()"),
        (locks_and_queues, "own = trio.open_memory_channel[str](1)"),
        (locks_and_queues, "import threading"),
        (locks_and_queues, "from queue import SimpleQueue as S"),
        (busy_waits, "async def f():\n while True: await trio.lowlevel.checkpoint()"),
        (waiting_sends, "async def f(): await self._channel.send(job.id)"),
        (sleeps_in_loops, "while True: time.sleep(1)"),
        (sleeps_in_loops, "async def f():\n async for x in y:\n  if x: await trio.sleep(0)"),
        (clones, "self._send.clone()"),
        (clones, "send.clone()"),
        (global_statements, "def f():\n global x\n x = 1"),
        (mutable_globals, "cache = {}"),
        (mutable_globals, "CACHE = {}\ndef f(): CACHE['a'] = 1"),
        (mutable_globals, "CACHE: set[str] = {'a'}\ndef f(): CACHE.add('b')"),
        (mutable_globals, "_store = MemoryStore()"),
        (mutable_globals, "_first, _second = deque(), None"),
        (mutable_globals, "LATEST = [None]\nLATEST += [1]"),
        (mutable_globals, "class Worker:\n    jobs = []"),
        (mutable_globals, "seen = {x for x in range(3)}"),
    ],
)
def test_rule_notices(rule: Rule, line: str) -> None:
    assert list(rule(ast.parse(line)))


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (sleeps, "async def f(): await trio.sleep_forever()"),
        (clones, "receive.clone()"),
        (mutable_globals, "_PORTS = {b'http': b':80'}\n__all__ = ['a']"),
        (mutable_globals, "log = logging.getLogger(__name__)"),
        (mutable_globals, "T = MappingProxyType({1: frozenset({2})})\nP = Callable[[Job], None]"),
        (mutable_globals, "_decode = msgspec.json.Decoder(Envelope).decode"),
        (mutable_globals, "class Job(Struct):\n    decode: object = Decoder().decode"),
        (mutable_globals, "def f():\n    seen = []\n    seen.append(1)"),
    ],
)
def test_rule_lets_pass(rule: Rule, line: str) -> None:
    assert not list(rule(ast.parse(line)))


def test_no_module_name_occurs_twice() -> None:
    names = Counter(Path(name).stem for name in MODULES)
    del names["__init__"]

    assert [name for name, times in names.items() if times > 1] == []


# The same thing as the client and the server see it, or as a port and its implementation. The last
# two mean where a handler runs (`Run` is public), and parts of the command `trio-jobs run`.
ALIKE = {"Answer", "Client", "Job", "JobError", "JobUnsuccessfulError", "Patience", "RefusedError"}
ALIKE |= {"SubmissionSpan", "Tracing"} | {"Run", "Runner"}


def test_no_class_name_has_two_meanings() -> None:
    names = Counter(
        node.name
        for name in MODULES
        for node in walk(tree_of(name))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )

    assert {name for name, times in names.items() if times > 1} == ALIKE


def imports_of(module: str) -> set[str]:
    """The modules of the project that this one imports, for the type checker as well."""
    tree = tree_of(module)
    names = set()
    for node in walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    paths = {name.removeprefix("trio_jobs.").replace(".", "/") + ".py" for name in names}
    return paths & MODULES.keys()


def test_the_http_server_knows_ten_modules_of_the_ground_floor() -> None:
    known = {name for name in MODULES if name.startswith("server/")}
    while more := set().union(*map(imports_of, known)) - known:
        known |= more

    assert {name for name in known if not name.startswith("server/")} == {
        "access.py",
        "addresses.py",
        "bounded_read.py",
        "hidden_values.py",
        "problem_details.py",
        "sessions.py",
        "setting_type.py",
        "settings.py",
        "shown_value.py",
        "tokens.py",
    }


@pytest.mark.parametrize(
    ("module", "defaults"),
    [("embed.py", {}), ("embedded_jobs.py", {"limit": 100}), ("testing/plugin.py", {})],
)
def test_default_of_a_setting_is_not_written_again(module: str, defaults: dict[str, float]) -> None:
    found: dict[str, object] = {}
    for node in walk(tree_of(module)):
        if isinstance(node, ast.arguments):
            each = zip(node.kwonlyargs, node.kw_defaults, strict=True)
            found |= {
                argument.arg: default.value
                for argument, default in each
                if isinstance(default, ast.Constant) and type(default.value) in (int, float)
            }

    assert found == defaults


def test_sql_is_in_one_package_and_locks_of_threads_are_nowhere() -> None:
    for name in MODULES:
        tree = tree_of(name)
        imported = {
            alias.name
            for node in walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {node.module for node in walk(tree) if isinstance(node, ast.ImportFrom)}
        assert "sqlite3" not in imported or name.startswith("stores/sqlite/"), name
    for name in MODULES:
        if name.startswith("stores/"):
            tree = tree_of(name)
            assert not list(calls_of(tree, LOCKS - {"CapacityLimiter"})), name


def test_the_pool_has_one_channel_whichever_way_it_is_opened() -> None:
    opened = [name for name in MODULES for _ in calls_of(tree_of(name), {"open_memory_channel"})]

    # The last two are the two directions of a client that tests use.
    assert opened == [
        "embed.py",
        "main.py",
        "testing/asgi_client.py",
        "testing/asgi_client.py",
    ]


# What is atomic. ------------------------------------------------------------------------------


def methods(cls: type) -> dict[str, Callable[..., object]]:
    """All methods of a class, and the functions behind its properties."""
    found: dict[str, Callable[..., object]] = {}
    for name, value in vars(cls).items():
        function = getattr(value, "fget", getattr(value, "__func__", value))
        if inspect.isfunction(function):
            found[name] = function
    return found


def waits(function: Callable[..., object]) -> bool:
    """Whether calling it is not all there is: a coroutine, or a generator, which is run later."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
        or "Awaitable" in str(function.__annotations__.get("return"))
    )


AWAITED = {"find", "find_many", "find_keys", "page", "request_cancel", "make_due", "delete"}


@pytest.mark.parametrize("name", sorted(methods(MemoryStore).keys() - AWAITED))
def test_every_plain_method_of_the_store_is_atomic(name: str) -> None:
    assert not waits(methods(MemoryStore)[name])


def test_awaited_methods_of_the_store_await_nothing() -> None:
    tree = tree_of("stores/memory.py")
    functions = [node for node in walk(tree) if isinstance(node, ast.AsyncFunctionDef)]

    assert {function.name for function in functions} == AWAITED
    assert not any(isinstance(node, ast.Await) for node in walk(tree))


def test_store_inherits_nothing_that_would_escape_the_check() -> None:
    assert MemoryStore.__mro__ == (MemoryStore, object)


@pytest.mark.parametrize("name", ["submit", "submit_all", "admit_up_to_nowait", "close", "closed"])
def test_admission_is_atomic(name: str) -> None:
    assert not waits(methods(Admission)[name])


# What a worker knows. -------------------------------------------------------------------------


def uses_of(tree: ast.Module, name: str) -> set[str]:
    return {
        node.attr
        for node in walk(tree)
        if isinstance(node, ast.Attribute) and name_of(node.value) == name
    }


def test_worker_asks_the_store_for_its_four_moves_and_nothing_else() -> None:
    tree = tree_of("pool/worker.py")

    assert uses_of(tree, "store") == {"claim", "complete", "postpone", "release", "disk"}


def test_worker_is_given_the_channel_the_store_and_the_process() -> None:
    tree = tree_of("pool/worker.py")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    function = functions["run_worker"]

    assert [name for name in functions if not name.startswith("_")] == ["run_worker"]
    assert [argument.arg for argument in function.args.args] == ["jobs", "store", "process"]
    assert not function.args.kwonlyargs
    assert not function.args.vararg
    assert not function.args.kwarg


@pytest.mark.parametrize("move", ["claim", "complete", "release"])
def test_only_workers_make_the_moves(move: str) -> None:
    users = [name for name in MODULES if move in uses_of(tree_of(name), "store")]

    assert users == ["pool/worker.py"]

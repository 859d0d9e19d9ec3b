"""The fast path and the ordinary way give the same answer to the same request, in any state."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import pytest
import trio
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from quart_trio import QuartTrio
from trio.testing import MockClock

from tests.api.support import MAX_BODY_BYTES, Api, FakeMetrics, accept, answer_now
from tests.api.test_hostile_json import ACCEPTED, REFUSED, take_named, take_unread
from tests.api.test_parsing import ONCE, TWICE, submissions
from tests.asgi import Answer, Client
from tests.proof.share import examples_of_round, rounds
from tests.support import ANYONE, SUCCEEDED, Access, Role, StoreError, make_parts
from trio_jobs import AdmissionError, Ending, Handler, Job, JobError, Outcome
from trio_jobs.access import EXTENSION
from trio_jobs.pool.reruns import rerun_nowait

# The pool of each way is in the same state; only the ids differ.
WORKERS, BUFFER_SIZE, KEEP_COMPLETED = 1, 3, 3

HANDLERS: dict[str, Callable[[Any], Any] | Handler] = {
    "email": accept,
    "a": Handler.of(accept, hide=["to", "payload", "n"]),
    "named": take_named,
    "unread": take_unread,
}

# Of answers.
KINDS = {
    "POST 201",
    "POST 400",
    "POST 422",
    "POST 429",
    "POST 503",
    "GET 200",
    "GET 404",
    "declined",
    "rerun",
}

ENDINGS = [
    SUCCEEDED,
    Ending(outcome=Outcome.SUCCEEDED, result=b'{"n":[1,"\xc3\xa9"]}'),
    Ending(outcome=Outcome.FAILED, error=JobError(type="ValueError", message='"\U0001f600\n')),
    Ending(outcome=Outcome.TIMED_OUT, error=JobError(type="TooSlow", message="")),
    Ending(outcome=Outcome.CANCELLED),
]


# Who asks. The server checks the role before either way.
ACCESSES = [
    *[ANYONE, ANYONE, Access(role=Role.CONTROL, name="ann"), Access(role=Role.READ, name="eve")],
    *[Access(role=Role.SUBMIT, name="shop"), Access(role=Role.READ), Access(role=None)],
]

Payloads = Literal["read", "control"]


class AskedBy:
    """The application behind a server that says who asks."""

    def __init__(self, access: Access, app: QuartTrio) -> None:
        self._access = access
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        scope["extensions"] = {**scope.get("extensions", {}), EXTENSION: self._access}
        await self._app(scope, receive, send)


class Ways:
    """Two pools in the same state: one behind the fast path, one behind Quart.

    Attributes:
        counts: How often each status was given by both ways, and how often the fast path declined.
    """

    def __init__(self, counts: Counter[str], *, default: bool, payloads: Payloads) -> None:
        functions = {**HANDLERS, "default": accept} if default else HANDLERS
        self.apis = [
            Api(
                functions,
                parts=make_parts(
                    workers=WORKERS,
                    buffer_size=BUFFER_SIZE,
                    keep_completed=KEEP_COMPLETED,
                    keep_failed=KEEP_COMPLETED,
                ),
                payloads=payloads,
                metrics=FakeMetrics(),
            )
            for _ in range(2)
        ]
        self.ids: list[list[str]] = [[], []]
        self.running: list[str | None] = [None, None]
        self.counts = counts

    def claim(self) -> None:
        """A worker takes the next job, if there is one."""
        for n, api in enumerate(self.apis):
            if self.running[n] is None and api.parts.admission.buffered:
                job_id = self.running[n] = api.parts.receive.receive_nowait()
                api.parts.workers.claim(job_id)

    def complete(self, ending: Ending) -> None:
        """The job that was claimed ends."""
        for n, api in enumerate(self.apis):
            job_id, self.running[n] = self.running[n], None
            if job_id is not None:
                api.parts.workers.complete(job_id, ending, duration=0.25)

    def fail_and_rerun(self) -> None:
        """Few sequences would have these three calls by themselves."""
        self.claim()
        self.complete(ENDINGS[2])
        self.rerun()

    def rerun(self) -> None:
        """The first job that can be re-run is submitted once more, if there is room."""
        for n, api in enumerate(self.apis):
            for job in api.parts.store.page_nowait(limit=100):
                with suppress(StoreError, AdmissionError):
                    self.ids[n].append(rerun_nowait(api.context.pool, job).id)
                    self.counts["rerun"] += 1
                    break

    def close(self) -> None:
        """The pool takes no more jobs."""
        for api in self.apis:
            api.parts.admission.close()

    async def request(
        self, access: Access, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Make one request both ways; ``{n}`` in the target is the id of the job ``n``."""
        [fast, ordinary] = self.apis
        targets = [self._filled(target, ids) for ids in self.ids]
        before = self._jobs(0)

        got = answer_now(fast.both_ways, method, targets[0], headers, body, access)

        assert (got is not None) == belongs_to_fast_path(method, targets[0], headers)
        if got is None:
            assert self._jobs(0) == before
            self.counts["declined"] += 1
            return
        client = Client(AskedBy(access, ordinary.app))
        wanted = await client.request(
            method, targets[1], body=body, headers={"host": "test", **headers}
        )
        self._learn(got, 0)
        self._learn(wanted, 1)
        assert self._masked(got, 0) == self._masked(wanted, 1)
        assert self._jobs(0) == self._jobs(1)
        assert fast.parts.admission.buffered == ordinary.parts.admission.buffered
        assert self._refusals(0) == self._refusals(1)
        self.counts[f"{method} {got.status}"] += 1

    @staticmethod
    def _filled(target: str, ids: list[str]) -> str:
        for n, job_id in enumerate(ids):
            target = target.replace(f"{{{n}}}", job_id)
        return target

    def _learn(self, answer: Answer, n: int) -> None:
        if answer.status == 201:
            self.ids[n].append(answer.json()["id"])

    def _masked(self, answer: Answer, n: int) -> str:
        """Status, headers and body, with the place of each job instead of its id."""
        text = f"{answer.status} {answer.all_headers} {answer.body!r}"
        for place, job_id in enumerate(self.ids[n]):
            text = text.replace(job_id, f"<{place}>")
        return text

    def _refusals(self, n: int) -> Counter[str]:
        metrics = self.apis[n].context.metrics
        assert metrics is not None
        return metrics.refusals

    def _jobs(self, n: int) -> list[tuple[int, Job]]:
        """The jobs of one way, with their places instead of their ids."""
        store = self.apis[n].parts.store
        found: list[tuple[int, Job]] = []
        for job in store.page_nowait(limit=100):
            members = _members(job)
            for name in ("id", "rerun_of", "rerun_as"):
                if members[name] is not None:
                    members[name] = str(self.ids[n].index(members[name]))
            found.append((self.ids[n].index(job.id), Job(**members)))
        return found


def _members(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


def belongs_to_fast_path(method: str, target: str, headers: Mapping[str, str]) -> bool:
    """What the page about performance says of it."""
    names = {name.lower() for name in headers}
    if names & {"prefer", "content-encoding"} or len(names) < len(headers):
        return False
    if method == "POST":
        return target == "/jobs"
    parts = target.removeprefix("/jobs/").split("-")
    return (
        method == "GET"
        and target.startswith("/jobs/")
        and [len(part) for part in parts] == [8, 4, 4, 4, 12]
        and set("".join(parts)) <= set("0123456789abcdef")
    )


Step = Callable[[Ways], Any]

payloads = st.one_of(
    st.sampled_from([*ACCEPTED.values()]),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
)
types = st.sampled_from(["email", "named", "unread", "emial", "", "\ud800", "\xe9"]) | st.text()
times = st.sampled_from(
    [
        *[b'"delay":0', b'"delay":0.5', b'"delay":90', b'"delay":315619200', b'"delay":-1'],
        *[b'"delay":"1"', b'"delay":NaN', b'"delay":1,"delay":2', b'"delay":1,"run_at":1'],
        *[b'"run_at":"2026-11-25T12:00:30Z"', b'"run_at":"2026-12-24T18:00:00.5+01:00"'],
        *[b'"run_at":"2020-01-01T00:00:00Z"', b'"run_at":"tomorrow"', b'"run_at":null'],
    ]
)
delayed = st.tuples(st.sampled_from([b'"type":"a"', b'"type":"named","payload":{"to":"x"}']), times)
bodies = st.one_of(
    delayed.map(b"{%b,%b}".__mod__),
    delayed.map(lambda pair: b"{%b,%b}" % pair[::-1]),
    st.builds(
        b'{"type":%b,"payload":%b}'.__mod__,
        st.tuples(types.map(json.dumps).map(str.encode), payloads),
    ),
    st.sampled_from([*REFUSED.values(), *TWICE.values(), *ONCE.values()]).filter(
        lambda body: len(body) <= MAX_BODY_BYTES
    ),
    submissions().map(lambda pair: pair[0]),
    st.binary(max_size=40),
)
plain_targets = st.sampled_from(
    [
        *["/jobs/{0}", "/jobs/{1}", "/jobs/{2}", "/jobs/{5}"],
        "/jobs/01936d3c-0000-7000-8000-000000000000",
        "/jobs/ffffffff-ffff-ffff-ffff-ffffffffffff",
    ]
)
odd_targets = st.one_of(
    st.sampled_from(["/jobs?", "/jobs/", "//jobs", "/jobs/{0}?x", "/jobs/{0}/", "/JOBS", "*", ""]),
    st.from_regex(r"/jobs/[0-9a-fA-F-]{36}", fullmatch=True),
    st.text(st.characters(codec="ascii", exclude_characters="{}"), max_size=50).map("/".__add__),
)
odd_headers = st.dictionaries(
    st.sampled_from(
        [
            *["Accept", "Content-Type", "Cookie", "Expect", "Host", "If-None-Match", "Range", "Te"],
            *["Transfer-Encoding", "Upgrade", "X-HTTP-Method-Override", "X-Forwarded-Prefix"],
        ]
    )
    | st.from_regex(r"[A-Za-z!#$%&'*+.^_`|~-]{1,9}", fullmatch=True),
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20).map(str.strip),
    max_size=4,
)
no_headers: st.SearchStrategy[dict[str, str]] = st.just({})
special_headers = st.dictionaries(
    st.sampled_from(["Prefer", "Idempotency-Key", "idempotency-key", "Content-Encoding"]),
    st.sampled_from(["", "wait=0", "identity", "key"]),
    min_size=1,
    max_size=2,
)
headers = no_headers | odd_headers | special_headers
submitting = st.tuples(st.just("POST"), st.just("/jobs"), headers, bodies)
polling = st.tuples(st.just("GET"), plain_targets, headers, st.just(b"") | bodies)
odd = st.tuples(
    st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "get", "FOO"]),
    st.just("/jobs") | plain_targets | odd_targets,
    odd_headers,
    bodies,
)
accepted = st.tuples(
    st.just("POST"), st.just("/jobs"), no_headers, st.sampled_from([*ONCE.values()])
)
keyed = st.tuples(
    st.just("POST"),
    st.just("/jobs"),
    st.just({"Idempotency-Key": "key"}),
    delayed.map(b"{%b,%b}".__mod__) | st.sampled_from([*ONCE.values()][:2]),
)
requests = st.one_of(accepted, keyed, submitting, polling, polling, odd)
request_steps = st.tuples(st.sampled_from(ACCESSES), requests).map(
    lambda asked: lambda ways: ways.request(asked[0], *asked[1])
)
steps = st.one_of(
    request_steps,
    request_steps,
    request_steps,
    st.just(Ways.claim),
    st.sampled_from([Ways.rerun, Ways.fail_and_rerun, Ways.fail_and_rerun]),
    st.sampled_from(ENDINGS).map(lambda ending: lambda ways: ways.complete(ending)),
)


async def take(
    steps: list[Step], counts: Counter[str], *, default: bool, payloads: Payloads, close_at: int
) -> None:
    ways = Ways(counts, default=default, payloads=payloads)
    for n, step in enumerate(steps):
        if n == close_at:
            ways.close()
        if (awaitable := step(ways)) is not None:
            await awaitable


@pytest.fixture
def fast_path() -> None:
    """The test itself takes both ways."""


@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.proof)])
def test_both_ways_give_the_same_answer_to_the_same_request(*, many: bool) -> None:
    examples = examples_of_round(100) if many else 20
    counts: Counter[str] = Counter()

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(
        steps=st.lists(steps, min_size=10, max_size=40),
        default=st.booleans(),
        payloads=st.sampled_from(["read", "control"]),
        close_at=st.sampled_from([100, 10]),
    )
    def compare(steps: list[Step], *, default: bool, payloads: Payloads, close_at: int) -> None:
        run = partial(take, steps, counts, default=default, payloads=payloads, close_at=close_at)
        trio.run(run, clock=MockClock())

    if not many:  # they need not have each kind
        compare()
        return
    # Which requests Hypothesis makes depends on what else is imported: a round may miss a kind.
    for number in rounds(8):
        seed(number)(compare)()
        if counts.keys() >= KINDS:
            return
    assert counts.keys() >= KINDS, counts

"""Half an hour at about 80 % load, everything mixed: memory flat, nothing grows, counts add up.

Once with the jobs in memory, and once in a file, which stays as large as it is, too.

    pytest -m soak -k half_an_hour --report docs/reliability

The jobs are slow, so that the load is one of the workers and not of the processor.
"""

import json
import random
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import pytest
import trio

from tests.command import Command, running_command
from tests.proof.accounts import Ledger, Told
from tests.proof.share import share_of
from tests.proof.talking import Talker, request_bytes, talking, task
from tests.proof.vitals import Curve, Vitals, draw

WORKERS = 16
BUFFER = 50
LOAD = 0.8

# Minutes: the load has become what it should be, and of everything there is some.
LONG_ENOUGH = 5

# Few enough to be reached within the first minutes: from then on a job is dropped for each that
# ends, of the same kind: successes and others are counted apart.
KEPT = 2_000
KEPT_OTHERS = 200

FILE = "jobs.db"

# Descriptors: the lock's, that of the memory which connections share, and two each of the writer
# and of four readers.
MOST_OF_THE_FILE = 1 + 1 + 2 + 4 * 2

CONFIG = f"""
[pool]
workers = {WORKERS}
buffer_size = {BUFFER}
grace_period = 60
processes = 2

[store]
{{store}}
keep_completed = {KEPT}
keep_failed = {KEPT_OTHERS}

[handlers]
work = "work:work"
fail = "work:fail"
endless = "work:endless"
in_thread = "work:in_thread"
census = "work:census"

[handlers.in_process]
call = "work:in_process"
run = "process"

[handlers.limited]
call = "work:endless"
timeout = 0.4
"""

HANDLERS = Path(__file__).with_name("work.py")


@dataclass(slots=True)
class Soak:
    """The load and what is seen of it.

    Attributes:
        rate: Arrivals a second; adjusted to the load that is measured.
        kinds: How often each kind of client came.
        answers: How often each status was answered, by kind.
        outcomes: How each job has to end if it is accepted, by token.
        streams: What was sent in each stream and pipe that was answered, and how much of it was
            accepted.
    """

    server: Command
    told: Told = field(default_factory=Told)
    chance: random.Random = field(default_factory=lambda: random.Random(20261125))  # noqa: S311 - to be repeated
    rate: float = 25.0
    number: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    outcomes: dict[str, str] = field(default_factory=dict)
    streams: list[tuple[list[str], int]] = field(default_factory=list)
    idle: list[Talker] = field(default_factory=list)

    def token(self, outcome: str) -> str:
        """A token for a job that has to end like this if it is accepted."""
        self.number += 1
        token = f"t{self.number}"
        self.outcomes[token] = outcome
        return token

    async def arrive(self, kind: str) -> None:
        """One client of this kind: it takes a connection, does its business, leaves it open."""
        self.kinds[kind] += 1
        talker = self.idle.pop() if self.idle else Talker(self.server.url, self.told)
        try:
            await KINDS[kind](self, talker)
        finally:
            self.idle.append(talker)

    def took(self, kind: str, status: int) -> None:
        """Take down an answer."""
        self.answers[kind, status] += 1

    def close(self) -> None:
        """Close the clients' connections."""
        for talker in self.idle:
            talker.close()


def _status(answer: object) -> int:
    return int(getattr(answer, "status", 0))


async def single(soak: Soak, talker: Talker) -> None:
    answer = await talker.submit("work", soak.token("succeeded"), soak.chance.uniform(0.1, 0.6))
    soak.took("single", _status(answer))


async def slow(soak: Soak, talker: Talker) -> None:
    soak.took("slow", _status(await talker.submit("work", soak.token("succeeded"), 3)))


async def failing(soak: Soak, talker: Talker) -> None:
    soak.took("failing", _status(await talker.submit("fail", soak.token("failed"), 0.2)))


async def in_thread(soak: Soak, talker: Talker) -> None:
    soak.took("thread", _status(await talker.submit("in_thread", soak.token("succeeded"), 0.2)))


async def in_process(soak: Soak, talker: Talker) -> None:
    soak.took("process", _status(await talker.submit("in_process", soak.token("succeeded"), 0.1)))


async def limited(soak: Soak, talker: Talker) -> None:
    soak.took("limited", _status(await talker.submit("limited", soak.token("timed_out"), 0)))


async def cancelled(soak: Soak, talker: Talker) -> None:
    token = soak.token("cancelled")
    answer = await talker.submit("endless", token, 0)
    soak.took("cancelled", _status(answer))
    while answer is not None and answer.status == 201:
        await trio.sleep(soak.chance.uniform(0, 0.6))
        # Without an answer it would run for ever.
        path = f"/jobs/{soak.told.accepted[token]}/cancel"
        cancel = await talker.ask("POST", path, headers={"Prefer": "wait=10"})
        if cancel is not None:
            assert cancel.status in (200, 202), cancel.body
            return


async def waiting(soak: Soak, talker: Talker) -> None:
    token = soak.token("succeeded")
    answer = await talker.submit("work", token, 0.3, {"Prefer": "wait=20"})
    soak.took("waiting", _status(answer))
    if answer is not None and answer.status == 201:
        job = answer.json()
        assert (job["status"], job["outcome"], job["result"]) == ("completed", "succeeded", token)


async def repeated(soak: Soak, talker: Talker) -> None:
    token = soak.token("succeeded")
    key = {"Idempotency-Key": token}
    first = await talker.submit("work", token, 0.2, key)
    soak.took("repeated", _status(first))
    if first is not None and first.status == 201:
        again = await talker.submit("work", token, 0.2, key)
        assert again is not None
        assert (again.status, again.json()["id"]) == (201, first.json()["id"])


async def batch(soak: Soak, talker: Talker) -> None:
    tokens = [soak.token("succeeded") for _ in range(6)]
    soak.took("batch", await talker.submit_batch("work", tokens, 0.2))


async def stream(soak: Soak, talker: Talker) -> None:
    tokens = [soak.token("succeeded") for _ in range(6)]
    soak.told.unanswered.update(tokens)
    lines = "".join(json.dumps(task("work", token, 0.2)) + "\n" for token in tokens)
    answer = await talker.exchange(request_bytes("POST", "/jobs/stream", lines.encode()))
    soak.took("stream", _status(answer))
    if answer is not None:
        soak.told.unanswered.difference_update(tokens)
        soak.streams.append((tokens, answer.json()["accepted"]))


async def pipe(soak: Soak, talker: Talker) -> None:
    """A slice of a pipe, with keys; each of its lines is answered."""
    tokens = [soak.token("succeeded") for _ in range(6)]
    soak.told.unanswered.update(tokens)
    tasks = [{**task("work", token, 0.2), "key": token} for token in tokens]
    lines = "".join(json.dumps(each) + "\n" for each in tasks)
    answer = await talker.exchange(request_bytes("POST", "/jobs/pipe", lines.encode()))
    soak.took("pipe", _status(answer))
    if answer is not None:
        soak.told.unanswered.difference_update(tokens)
        *answers, end = [json.loads(line) for line in answer.body.splitlines() if line]
        assert end == {"end": "input", "lines": 6, "succeeded": 6}
        assert {each["key"] for each in answers} == set(tokens)
        soak.streams.append((tokens, 6))


async def too_many(soak: Soak, talker: Talker) -> None:
    """As many at once as the buffer holds, and again: the second time it has no room for all."""
    for _ in range(2):
        tokens = [soak.token("succeeded") for _ in range(BUFFER)]
        soak.took("too many", await talker.submit_batch("work", tokens, 0.05))


async def mistaken(soak: Soak, talker: Talker) -> None:
    answer = await talker.submit("work", soak.token("never"), 0.1, {"Idempotency-Key": "\t"})
    soak.took("mistaken", _status(answer))


async def hanging_up(soak: Soak, talker: Talker) -> None:
    part = soak.chance.choice([0.1, 0.5, 0.9, 1.0])
    await talker.hang_up_on("work", soak.token("succeeded"), 0.2, part)


async def reading(soak: Soak, talker: Talker) -> None:
    """Look at a page, and delete a job of it."""
    answer = await talker.ask("GET", "/jobs?status=completed&limit=20")
    soak.took("reading", _status(answer))
    if answer is not None and answer.status == 200 and answer.json():
        job_id = soak.chance.choice(answer.json())["id"]
        gone = await talker.ask("DELETE", f"/jobs/{job_id}")
        assert gone is not None
        assert gone.status in (204, 404)


async def listing(soak: Soak, talker: Talker) -> None:
    answer = await talker.ask("GET", "/jobs")
    soak.took("listing", _status(answer))
    if answer is not None and answer.status == 200:
        ids = [job["id"] for job in answer.json()]
        assert ids == sorted(set(ids))


KINDS: dict[str, Callable[[Soak, Talker], Awaitable[None]]] = {
    "single": single,
    "slow": slow,
    "failing": failing,
    "thread": in_thread,
    "process": in_process,
    "limited": limited,
    "cancelled": cancelled,
    "waiting": waiting,
    "repeated": repeated,
    "batch": batch,
    "stream": stream,
    "pipe": pipe,
    "too many": too_many,
    "mistaken": mistaken,
    "hanging up": hanging_up,
    "reading": reading,
    "listing": listing,
}

# How often each comes, of a hundred or so.
WEIGHTS: dict[str, float] = {
    "single": 40,
    "slow": 3,
    "failing": 10,
    "thread": 6,
    "process": 3,
    "limited": 4,
    "cancelled": 6,
    "waiting": 8,
    "repeated": 3,
    "batch": 3,
    "stream": 3,
    "pipe": 3,
    "too many": 1,
    "mistaken": 2,
    "hanging up": 4,
    "reading": 4,
    "listing": 0.5,
}


async def keep_coming(soak: Soak, end: float) -> None:
    """Clients arrive at random until ``end``, whether or not those before have been served."""
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    async with trio.open_nursery() as clients:
        while trio.current_time() < end:
            await trio.sleep(soak.chance.expovariate(soak.rate))
            [kind] = soak.chance.choices(kinds, weights)
            clients.start_soon(soak.arrive, kind)


@dataclass(slots=True)
class Seen:
    """What was measured, and when."""

    times: list[float] = field(default_factory=list)
    vitals: list[Vitals] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    buffered: list[int] = field(default_factory=list)
    file: list[int] = field(default_factory=list)
    wal: list[int] = field(default_factory=list)
    census_times: list[float] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    def curves(self) -> list[Curve]:
        """For the picture."""
        return [
            Curve(
                title="resident memory of the server, MB",
                times=self.times,
                values=[each.rss / 1e6 for each in self.vitals],
            ),
            Curve(
                title="descriptors", times=self.times, values=[v.descriptors for v in self.vitals]
            ),
            Curve(title="threads", times=self.times, values=[v.threads for v in self.vitals]),
            Curve(title="Trio tasks", times=self.census_times, values=self.tasks),
            Curve(title="busy workers, %", times=self.times, values=[100 * b for b in self.busy]),
            Curve(title="jobs in the buffer", times=self.times, values=self.buffered),
            *([self.file_size()] if any(self.file) else []),
        ]

    def note_sizes(self, file: Path) -> None:
        """Take down the sizes of the jobs' file and of its WAL, if there are any."""
        for path, sizes in ((file, self.file), (file.with_name(f"{file.name}-wal"), self.wal)):
            sizes.append(path.stat().st_size if path.exists() else 0)

    def file_size(self) -> Curve:
        """The size of the jobs' file."""
        return Curve(title="file, MB", times=self.times, values=[n / 1e6 for n in self.file])


async def count_tasks(talker: Talker) -> int | None:
    """How many tasks the server has; None if it had no room for the question."""
    answer = await talker.ask("POST", "/jobs", {"type": "census"}, {"Prefer": "wait=20"})
    if answer is None or answer.status != 201:
        return None
    return int(answer.json()["result"]["tasks"])


async def watch(soak: Soak, seen: Seen, file: Path, *, every: float) -> None:
    """Measure again and again, and adjust the arrivals to the load."""
    start = trio.current_time()
    recent: list[float] = []
    async with talking(soak.server.url, soak.told) as talker:
        for turn in range(10**9):
            await trio.sleep_until(start + turn * every)
            ready = await talker.ask("GET", "/health/ready")
            if ready is None:
                continue
            status = ready.json()
            busy = status["busy"] / status["workers"]
            seen.times.append(trio.current_time() - start)
            seen.vitals.append(Vitals.of(soak.server.process.pid, file))
            seen.busy.append(busy)
            seen.buffered.append(status["buffered"])
            seen.note_sizes(file)
            recent = [*recent[-14:], busy]
            if len(recent) == 15 and turn % 5 == 0:
                soak.rate *= min(max(LOAD / max(mean(recent), 0.1), 0.9), 1.1)
            if turn % 5 == 0:
                tasks = await count_tasks(talker)
                if tasks is not None:
                    seen.census_times.append(trio.current_time() - start)
                    seen.tasks.append(tasks)


# Tasks and vitals when nothing is going on.
Rest = tuple[int, Vitals]


async def at_rest(server: Command, file: Path, *, before: Rest | None = None) -> Rest:
    """What there is once nothing is going on any more, asked over one connection.

    Args:
        server: The server.
        file: That of the jobs.
        before: What there was; a busy machine takes some time to come to it again.
    """
    async with talking(server.url, Told()) as talker:
        while True:
            ready = await talker.ask("GET", "/health/ready")
            assert ready is not None
            if ready.json()["busy"] == ready.json()["buffered"] == 0:
                break
            await trio.sleep(0.2)
        for _ in range(10):
            await trio.sleep(12)  # Trio keeps an idle thread for 10 s
            tasks = await count_tasks(talker)
            assert tasks is not None
            now = tasks, Vitals.of(server.process.pid, file)
            if before is None or is_as_before(now, before):
                break
        return now


def is_as_before(now: Rest, before: Rest) -> bool:
    """Whether there are as many tasks and descriptors, and no more threads."""
    (tasks, vitals), (tasks_before, vitals_before) = now, before
    return (
        tasks == tasks_before
        and vitals.descriptors == vitals_before.descriptors
        and vitals.threads <= vitals_before.threads
    )


async def every_kind_once(soak: Soak) -> None:
    """What is started once and stays, such as child processes, is there after this."""
    async with talking(soak.server.url, soak.told) as talker:
        # Together, and not short: each process gets one.
        tokens = [soak.token("succeeded") for _ in range(4)]
        assert await talker.submit_batch("in_process", tokens, 0.5) == 201
    async with trio.open_nursery() as clients:
        for kind in KINDS:
            if kind != "too many":
                clients.start_soon(soak.arrive, kind)
    soak.close()


def count_log(server: Command) -> Counter[str]:
    """How many lines of each event about jobs are in the log."""
    found = [re.search(r" (job_\w+|claim_refused) ", line) for line in server.lines]
    return Counter(match[1] for match in found if match)


@pytest.mark.soak
async def test_half_an_hour_of_everything_leaves_nothing_behind(
    tmp_path: Path, report: Path
) -> None:
    await half_an_hour(tmp_path, report / "soak", "trio-jobs under load")


@pytest.mark.soak
async def test_half_an_hour_over_a_file_leaves_a_file_that_has_not_grown(
    tmp_path: Path, report: Path
) -> None:
    minutes = share_of(30)
    title = "trio-jobs under load, jobs in a file"

    seen = await half_an_hour(tmp_path, report / "soak-file", title, store=f'path = "{FILE}"')

    assert not (tmp_path / f"{FILE}-wal").exists()  # all is in the one file
    assert max(seen.wal) < 64_000_000
    if minutes >= LONG_ENOUGH:
        # Bursts ask for some pages more.
        check_is_flat(seen.file_size(), slack=0.2)
        assert 0.2 < seen.file[-1] / 1e6 < 2  # 2,200 jobs take half a megabyte


async def half_an_hour(folder: Path, report: Path, title: str, *, store: str = "") -> Seen:
    """Run the soak; its figures and its picture get the report's name with two suffixes."""
    minutes = share_of(30)
    handlers = HANDLERS.read_text()
    config = CONFIG.replace("{store}", store)
    async with running_command(folder, config=config, handlers=handlers) as server:
        soak, seen = Soak(server), Seen()
        await every_kind_once(soak)
        before = await at_rest(server, folder / FILE)

        async with trio.open_nursery() as watching:
            every = min(2.0, minutes)
            watching.start_soon(lambda: watch(soak, seen, folder / FILE, every=every))
            await keep_coming(soak, trio.current_time() + 60 * minutes)
            watching.cancel_scope.cancel()
        soak.close()
        after = await at_rest(server, folder / FILE, before=before)

        server.send(signal.SIGTERM)
        status = await server.wait_exit(90)
        streamed = sum(accepted for _, accepted in soak.streams)
        text = [
            (
                f"{minutes:g} minutes, {WORKERS} workers, {sum(soak.kinds.values())} clients,"
                f" {len(soak.told.accepted) + streamed} accepted jobs,"
                f" mean load {100 * mean(seen.busy):.0f} %, exit status {status}"
            ),
            "clients: " + ", ".join(f"{n} {kind}" for kind, n in sorted(soak.kinds.items())),
            "answers: "
            + ", ".join(f"{kind} {s}: {n}" for (kind, s), n in sorted(soak.answers.items())),
            *table(seen),
            at_rest_line("before", *before),
            at_rest_line("after", *after),
        ]
        ledger, logged = Ledger.read(folder), count_log(server)
        text.append(
            f"ledger: {ledger.began.total()} began, {ledger.ended.total()} ended;"
            f" log: {dict(sorted(logged.items()))}"
        )
        report.with_suffix(".txt").write_text("\n".join([*text, ""]))
        draw(report.with_suffix(".svg"), title, seen.curves())

        assert status == 0
        check_counts(soak, ledger, logged)
        check_that_everything_came(soak, seen, ledger, minutes)
        assert is_as_before(after, before)
        assert max(each.of_the_file for each in seen.vitals) <= MOST_OF_THE_FILE
        check_is_flat(seen.curves()[0], slack=2.0)
    return seen


def check_is_flat(curve: Curve, *, slack: float) -> None:
    """Check that the values do not grow in the last part of the time, by 3 % or the slack."""
    early, late = curve.median_between(0.2, 0.4), curve.median_between(0.8, 1.0)
    assert late - early < max(0.03 * early, slack), f"{curve.title}: {early:.1f} became {late:.1f}"


def at_rest_line(when: str, tasks: int, vitals: Vitals) -> str:
    """What it takes when nothing is going on."""
    return (
        f"at rest {when}: {tasks} tasks, {vitals.descriptors} descriptors,"
        f" {vitals.threads} threads, {vitals.rss / 1e6:.1f} MB"
    )


def table(seen: Seen) -> list[str]:
    """Medians for each tenth of the time."""
    rows = ["minutes    MB   descriptors  threads  tasks  busy %"]
    memory, descriptors, threads, tasks, busy, *_ = seen.curves()
    for tenth in range(10):
        start, end = tenth / 10, (tenth + 1) / 10
        values = [
            curve.median_between(start, end) for curve in (memory, descriptors, threads, tasks)
        ]
        end_minute = seen.times[-1] * end / 60
        load = mean(busy.between(start, end))
        rows.append(
            f"{end_minute:7.1f} {values[0]:6.1f} {values[1]:12.0f} {values[2]:8.0f}"
            f" {values[3]:6.0f} {load:7.0f}"
        )
    return rows


def check_counts(soak: Soak, ledger: Ledger, logged: Counter[str]) -> None:
    """Whatever was accepted has ended, in the way it had to, once."""
    told, outcomes = soak.told, soak.outcomes
    assert max(ledger.began.values()) == max(ledger.ended.values()) == 1
    assert not told.refused & set(ledger.began)
    for token in told.accepted:
        ended = outcomes[token] in ("succeeded", "failed")
        assert ledger.ended[token] == ended, token
        assert ledger.began[token] == 1 or outcomes[token] == "cancelled", token
    accepted = Counter(outcomes[token] for token in told.accepted)
    assert logged["job_failed"] == accepted["failed"]
    assert logged["job_timed_out"] == accepted["timed_out"]
    assert logged["job_cancelled"] == accepted["cancelled"]
    assert not logged["claim_refused"]
    # Of each stream as many lines as it was told, from the first one on.
    streamed = {token for tokens, accepted in soak.streams for token in tokens[:accepted]}
    # Clients that hung up: what ran of theirs was never refused. All of it has ended.
    others = ledger.began.keys() - told.accepted.keys()
    assert streamed <= others <= streamed | told.unanswered
    assert all(ledger.ended[token] == 1 for token in others)


def check_that_everything_came(soak: Soak, seen: Seen, ledger: Ledger, minutes: float) -> None:
    """Each kind of client and of end, and no answer that nobody should get."""
    assert soak.kinds.keys() >= KINDS.keys() - {"too many"}
    assert {status for _, status in soak.answers} <= {200, 201, 400, 429}
    assert {status for kind, status in soak.answers if kind == "mistaken"} == {400}
    accepted = Counter(soak.outcomes[token] for token in soak.told.accepted)
    assert accepted.keys() == {"succeeded", "failed", "timed_out", "cancelled"}
    assert soak.streams
    if minutes < LONG_ENOUGH:
        return
    assert abs(mean(seen.busy) - LOAD) < 0.1
    assert accepted.total() > 3 * KEPT  # so that most of it was dropped again
    assert sum(count for (_, status), count in soak.answers.items() if status == 429) > 0
    assert soak.told.unanswered & ledger.began.keys(), "no job of a client that hung up"

"""Wrong versions of the lines that carry the guarantees: each must make some test fail.

    python -m tests.proof.mutations            # all of them
    python -m tests.proof.mutations grace      # those with this word in their description, or file
    SOAK_SHARE=0.1 python -m tests.proof.mutations    # every tenth

Each is made in a copy of the sources, and the few test files that should notice run against it.
`tests/proof/test_mutations.py` sees to it that the list fits the sources.
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.proof.share import share_of

ROOT = Path(__file__).parents[2]

# Seconds; a wrong version may hang, and that is noticed too.
PATIENCE = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A wrong version.

    Attributes:
        what: What is wrong with it.
        file: Below ``src/trio_jobs``.
        old: A text that is there once, or the first one of it.
        new: What stands there instead.
        tests: What runs against it.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


STORE = ("tests/test_store.py", "tests/test_store_model.py", "tests/test_worker.py")
ADMISSION = (
    "tests/test_admission.py",
    "tests/test_waiting_for_room.py",
    "tests/api/test_stream.py",
    "tests/proof/test_every_step.py",
)
WORKER = ("tests/test_worker.py", "tests/test_pool.py")
HANDLERS = (
    "tests/test_pool.py",
    "tests/handlers/test_verdict.py",
    "tests/handlers/test_processor.py",
    "tests/handlers/test_threads.py",
    "tests/handlers/test_context.py",
)
MAIN = ("tests/proof/test_every_step.py", "tests/test_stopping.py")
STOP = ("tests/test_stop.py", "tests/test_stopping.py")


def mutations(file: str, tests: tuple[str, ...], *variants: tuple[str, str, str]) -> list[Mutation]:
    """Several of one file: each says what is wrong, the text that is there, and the wrong one."""
    return [
        Mutation(what=what, file=file, old=old, new=new, tests=tests) for what, old, new in variants
    ]


MUTATIONS = [
    *mutations(
        "store.py",
        STORE,
        (
            "claim does not compare",
            "self._get(job_id, expected=_PENDING, wanted=_PROCESSING)",
            "self.get(job_id)",
        ),
        ("claim waits", "    def claim(self", "    async def claim(self"),
        (
            "claim hands out a released job again",
            "        if job_id in self._released:\n",
            "        if False:\n",
        ),
        (
            "complete does not compare",
            "self._get(job_id, expected=_PROCESSING, wanted=_COMPLETED)",
            "self.get(job_id)",
        ),
        (
            "release does not compare",
            "self._get(job_id, expected=_PROCESSING, wanted=_PENDING)",
            "self.get(job_id)",
        ),
        ("release forgets", "        self._released.add(job_id)\n", ""),
        (
            "release keeps the time of the start",
            "status=_PENDING, started_at=None)",
            "status=_PENDING)",
        ),
        (
            "a second job with an id is taken",
            "        if job.id in self._jobs:\n",
            "        if False:\n",
        ),
        (
            "a second job with a key is taken",
            "        if job.key is not None and job.key.text in self._keys:\n",
            "        if False:\n",
        ),
        ("a claim is not told", "        self._claim_noted()\n", ""),
        ("a completion is not told", "        self._completion_noted(job)\n", ""),
        (
            "the newest is dropped",
            "self._drop(next(iter(self._completed)))",
            "self._drop(next(reversed(self._completed)))",
        ),
        (
            "one more than the bound is kept",
            "len(self._completed) > self._keep_completed\n",
            "len(self._completed) > self._keep_completed + 1\n",
        ),
        (
            "bytes have no bound",
            "            or self._completed_bytes > self._keep_completed_bytes\n",
            "",
        ),
        (
            "results are not counted",
            "        self._completed_bytes += size\n",
            "        self._completed_bytes += len(job.payload)\n",
        ),
        ("a dropped id stays in the order", "        self._order.remove(job_id)\n", ""),
        (
            "a dropped job's key stays",
            "            del self._keys[job.key.text]\n",
            "            pass\n",
        ),
        (
            "a job that runs can be deleted",
            (
                "        if job.status is not _COMPLETED:\n"
                "            raise InvalidTransitionError(\n"
                '                f"job {job_id!r} is {job.status}; only a completed'
            ),
            (
                "        if False:\n            raise InvalidTransitionError(\n"
                '                f"job {job_id!r} is {job.status}; only a completed'
            ),
        ),
        (
            "a completed job can be cancelled",
            "        if job.status is _COMPLETED:\n",
            "        if False:\n",
        ),
    ),
    *mutations(
        "order.py",
        ("tests/test_order.py", *STORE),
        ("a page begins with the job before it", "if each > job_id)", "if each >= job_id)"),
        (
            "an id out of order is added at the end",
            "        if job_id <= self._greatest:\n",
            "        if False:\n",
        ),
    ),
    *mutations(
        "admission.py",
        ADMISSION,
        (
            "the record is missing",
            "        self._store.add(job)\n        if log",
            "        if log",
        ),
        (
            "the record comes first",
            "        try:\n            self._channel.send_nowait(job.id)\n",
            (
                "        self._store.add(job)\n        try:\n"
                "            self._channel.send_nowait(job.id)\n"
            ),
        ),
        (
            "a checkpoint between the id and the record",
            "                if admitted := self._admit_some(submissions):\n",
            (
                "                if self._room_for_waiters(self.room) > 0:\n"
                "                    job = Job(id=self._new_id(), type=submissions[0].type,\n"
                "                              payload=submissions[0].payload,\n"
                "                              created_at=self._now())\n"
                "                    self._channel.send_nowait(job.id)\n"
                "                    await trio.lowlevel.checkpoint()\n"
                "                    self._store.add(job)\n"
                "                    admitted = [job]\n"
            ),
        ),
        (
            "the channel's own send waits for room",
            "                if admitted := self._admit_some(submissions):\n",
            (
                "                if submissions:\n"
                "                    job = Job(id=self._new_id(), type=submissions[0].type,\n"
                "                              payload=submissions[0].payload,\n"
                "                              created_at=self._now())\n"
                "                    await self._channel.send(job.id)\n"
                "                    self._store.add(job)\n"
                "                    admitted = [job]\n"
            ),
        ),
        (
            "a checkpoint between the look at the room and the admission",
            "                if admitted := self._admit_some(submissions):\n",
            (
                "                if (room := self._room_for_waiters(self.room)) > 0:\n"
                "                    await trio.lowlevel.checkpoint()\n"
                "                    admitted = self._admit_all(submissions[:room])\n"
            ),
        ),
        (
            "a checkpoint after the admission",
            "                    return admitted\n",
            (
                "                    await trio.lowlevel.checkpoint()\n"
                "                    return admitted\n"
            ),
        ),
        ("submit waits", "    def submit(\n", "    async def submit(\n"),
        ("a batch is taken in part", "        self._take_turn(len(submissions))\n", ""),
        ("idle workers are no room", "return free + channel.tasks_waiting_receive", "return free"),
        (
            "closing leaves the send end open",
            "        self._channel.close()\n        self._places",
            "        self._places",
        ),
        (
            "closing does not wake those who wait",
            "        for scope in self._open_blocks:\n            scope.cancel()\n",
            "",
        ),
        (
            "who does not wait takes each place",
            "        if self._places.turn.locked() and self._waiters_turn:\n",
            "        if False:\n",
        ),
    ),
    *mutations(
        "places.py",
        ADMISSION,
        ("a place that comes free wakes nobody", "        change.set()\n", ""),
        (
            "Retry-After is rounded down",
            "math.ceil(places * seconds_per_claim)",
            "int(places * seconds_per_claim)",
        ),
    ),
    *mutations(
        "worker.py",
        WORKER,
        ("a job cut short is not released", "                store.release(job_id)\n", ""),
        (
            "release only after an Exception",
            "            except BaseException:  # the",
            "            except Exception:  # the",
        ),
        (
            "the worker swallows its end",
            "                raise\n            store",
            "                return\n            store",
        ),
        (
            "a refused claim ends the worker",
            "                continue\n",
            "                return\n",
        ),
        (
            "a job that is gone ends the server",
            "except (InvalidTransitionError, JobNotFoundError) as",
            "except InvalidTransitionError as",
        ),
        ("the clone is not closed", "    with jobs:\n", "    if True:\n"),
        (
            "a checkpoint before the claim",
            "            try:\n                job = store.claim(job_id)",
            (
                "            try:\n                await trio.lowlevel.checkpoint()\n"
                "                job = store.claim(job_id)"
            ),
        ),
        (
            "a checkpoint before the record",
            "            store.complete(job_id, ending)\n",
            (
                "            await trio.lowlevel.checkpoint()\n"
                "            store.complete(job_id, ending)\n"
            ),
        ),
        (
            "each job is processed twice",
            "                ending = await process(job)\n",
            "                await process(job)\n                ending = await process(job)\n",
        ),
    ),
    *mutations(
        "handlers/processor.py",
        HANDLERS,
        (
            "except Exception around the handler",
            "        except BaseException as error:",
            "        except Exception as error:",
        ),
        (
            "the type decides whether the worker is cancelled",
            "            if trio.current_effective_deadline() == -math.inf:\n                await",
            "            if isinstance(error, trio.Cancelled):\n                await",
        ),
        (
            "no scope for each job",
            "            with trio.CancelScope() as scope:\n",
            "            for scope in [trio.CancelScope()]:\n",
        ),
        ("a cancelled job runs", "        if job.cancel_requested:\n", "        if False:\n"),
        (
            "cancelling frees the slot of a thread",
            "                if handler.run is not _THREAD:\n",
            "                if True:\n",
        ),
        (
            "the value of a process goes over a cancel that was first",
            "return running.end() or Ending(outcome=_SUCCEEDED, result=encoded)",
            "return Ending(outcome=_SUCCEEDED, result=encoded)",
        ),
        (
            "a thread outlasts the grace period",
            "                abandon_on_cancel=True,\n",
            "                abandon_on_cancel=False,\n",
        ),
    ),
    *mutations(
        "handlers/verdict.py",
        HANDLERS,
        (
            "a cancel counts after the end",
            "        if self._decided is None and not self._ended:\n",
            "        if self._decided is None:\n",
        ),
        (
            "a cancel goes over the time limit",
            "        self._look_at_clock()\n        if self._decided is None and not",
            "        if self._decided is None and not",
        ),
        (
            "the end goes over the time limit",
            "        self._look_at_clock()\n        self._ended = True\n",
            "        self._ended = True\n",
        ),
    ),
    *mutations(
        "main.py",
        MAIN,
        (
            "a clone of the send end is left open",
            "    core = make_core(\n",
            "    left_open = send.clone()  # noqa: F841\n    core = make_core(\n",
        ),
        (
            "the drain does not begin",
            "                submissions.close()  # the only send end",
            "                pass  # the only send end",
        ),
        (
            "the deadline of the grace period is by the wrong clock",
            "    return trio.current_time() + grace_period - (time.monotonic() - began)\n",
            "    return time.monotonic() + grace_period\n",
        ),
        (
            "the grace period begins when the loop comes to it",
            "    began = stop.at if stop.at is not None else time.monotonic()\n",
            "    began = time.monotonic()\n",
        ),
        (
            "there is no end of the grace period",
            "                pool.cancel_scope.deadline = _grace_ends(",
            "                _grace_ends(",
        ),
        (
            "HTTP ends with the pool",
            "                await server.start(http.run)\n",
            "                await pool.start(http.run)\n",
        ),
        (
            "HTTP closes when the drain begins",
            '                log.info("draining"',
            '                pool_ended.set()\n                log.info("draining"',
        ),
        (
            "unfinished jobs do not count for the status",
            "or http.failed or unfinished else 0",
            "or http.failed else 0",
        ),
        (
            "a crash does not count for the status",
            "    status = 1 if failure.error is not None or http",
            "    status = 1 if http",
        ),
        (
            "a pool that ends by itself is no crash",
            "            if not ending.is_set():\n",
            "            if False:\n",
        ),
        (
            "unfinished jobs are not named",
            "        if unfinished:\n",
            "        if False:\n",
        ),
        (
            "a worker's failure waits for the other handlers",
            "                self.note(error)\n            raise\n",
            "                pass\n            raise\n",
        ),
        ("the second signal does nothing", "    pool.cancel()\n", "    pass\n"),
        ("who waits is not told of the end", "        core.completions.end()  #", "        #"),
        (
            "the unfinished are named through the threads that handlers use",
            "run_sync(name, limiter=trio.CapacityLimiter(1))",
            "run_sync(name)",
        ),
        (
            "a failure of HTTP does not arm the hard limit",
            "            self._stop.arm_after_crash(draining=not self._closing.is_set())\n",
            "",
        ),
        (
            "a failure of HTTP takes the grace period from the drain",
            "draining=not self._closing.is_set()",
            "draining=False",
        ),
        (
            "a failure of HTTP goes unnoticed",
            "            self._ending.set()\n",
            "            pass\n",
        ),
    ),
    *mutations(
        "stop/__init__.py",
        STOP,
        (
            "a signal that does not count puts off the next",
            "            return\n        # No call",
            "            self._last = now\n            return\n        # No call",
        ),
        ("a repeated signal counts", "if now - self._last < REPEAT_WINDOW_SECONDS:", "if False:"),
        (
            "the first signal does not arm the hard limit",
            "self._hard_limit.arm(since=now, seconds=self._grace_period + self._closing_time)\n",
            "pass\n",
        ),
        (
            "the second signal does not arm the hard limit",
            "            self._hard_limit.arm(since=now, seconds=self._closing_time)\n",
            "            pass\n",
        ),
        (
            "signals before the loop do not count",
            "        self._wake()\n\n    async",
            "\n    async",
        ),
        (
            "a crash takes the grace period from a drain",
            "(self._grace_period if draining else 0)",
            "0",
        ),
        (
            "a crash leaves a grace period to nobody",
            "(self._grace_period if draining else 0)",
            "self._grace_period",
        ),
        ("the hard limit comes late", "MARGIN_SECONDS = 1.0", "MARGIN_SECONDS = 3.0"),
    ),
    *mutations(
        "start.py",
        ("tests/test_stopping.py",),
        (
            "a crash of the event loop does not arm the hard limit",
            "        stop.arm_after_crash()\n",
            "",
        ),
        (
            "a crash of the event loop names nobody",
            "        logs.write_final(__name__, logging.ERROR, stop.unfinished(),",
            "        logs.write_final(__name__, logging.ERROR, (),",
        ),
    ),
    *mutations(
        "stop/hard_limit.py",
        STOP,
        (
            "the last limit holds, not the earliest",
            "        if not self._started or self._due <= due:\n",
            "        if not self._started:\n",
        ),
        (
            "an exit that waits for threads",
            "            os._exit(HARD_LIMIT_STATUS)\n",
            "            sys.exit(HARD_LIMIT_STATUS)\n",
        ),
        (
            "an exit that needs the report to succeed",
            "        finally:\n            # Not",
            "        except ZeroDivisionError:\n            pass\n        else:\n            # Not",
        ),
        ("the report waits for its reader", "end - time.monotonic()) < len", "None) < len"),
    ),
    *mutations(
        "api/waiting.py",
        ("tests/api/test_wait.py",),
        (
            "a checkpoint between the look at the job and the wait for it",
            "    try:\n        with parts.completions.watch",
            "    await trio.lowlevel.checkpoint()\n    try:\n        with parts.completions.watch",
        ),
    ),
    *mutations(
        "ids.py",
        ("tests/test_ids.py",),
        (
            "the clock can set ids back",
            "max(now, self._next_millisecond) // _MILLISECOND",
            "now // _MILLISECOND",
        ),
        ("the counter overflows", "        if used_up or now", "        if now"),
        ("the head is not renewed", " or not counter & 0xFFFF:", ":"),
    ),
    *mutations(
        "job.py",
        ("tests/test_job.py", "tests/test_store.py"),
        (
            "characters are taken for bytes",
            'if text.isascii() else len(text.encode(errors="surrogatepass"))',
            "",
        ),
    ),
]


def run(mutation: Mutation, copy: Path) -> str:
    """Run the tests against a wrong version; what noticed it, or nothing."""
    path = copy / "src" / "trio_jobs" / mutation.file
    right = path.read_text()
    path.write_text(right.replace(mutation.old, mutation.new, 1))
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        *mutation.tests,
    ]
    try:
        with subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                return f"hangs: killed after {PATIENCE} s"
    finally:
        path.write_text(right)
    if process.returncode == 0:
        return ""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].partition(" ")[2] if failed else output.strip()[-100:]


def main(words: Sequence[str]) -> int:
    """Run the mutations whose descriptions or files have one of the words; all without any."""
    survived = 0
    chosen = [
        each
        for each in MUTATIONS
        if not words or any(word in f"{each.file}: {each.what}" for word in words)
    ]
    chosen = chosen[:: math.ceil(1 / share_of(1))]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "config.toml", "README.md"):
            shutil.copy(ROOT / name, copy / name)
        for mutation in chosen:
            began = time.monotonic()
            noticed = run(mutation, copy)
            survived += not noticed
            verdict = f"noticed by {noticed}" if noticed else "SURVIVED"
            took = time.monotonic() - began
            sys.stdout.write(f"{mutation.file}: {mutation.what}: {verdict} ({took:.0f} s)\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen)} wrong versions, {survived} survived\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Wrong versions of the lines that carry the guarantees: each must make some test fail.

    python -m tests.proof.mutations            # all of them
    python -m tests.proof.mutations grace      # those with this word in their description, or file
    SOAK_SHARE=0.1 python -m tests.proof.mutations    # every tenth

Each is made in a copy of the sources, and the few test files that should notice run against it.
Before that they run against the right version: there they must pass, and the time that this takes
says when a wrong version hangs.
`tests/proof/test_mutations.py` sees to it that the list fits the sources.
"""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.proof.share import share_of

ROOT = Path(__file__).parents[2]

# A wrong version that takes so many times as long as the right one, and some seconds on top, hangs.
# The seconds are more than any test waits for something: who waits in vain has failed by then.
PATIENCE_TIMES, PATIENCE_SECONDS = 5, 120

# What pytest returns when tests have failed; anything else but 0 says that they could not run.
TESTS_FAILED = 1


class Verdict(Enum):
    """What became of a wrong version."""

    NOTICED = "noticed"
    HANGS = "hang"
    SURVIVED = "survived"


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
    "tests/handlers/test_late_loop.py",
)
PROCESSES = (
    "tests/proof/test_every_step_of_a_process.py",
    "tests/handlers/test_processes.py",
    "tests/handlers/test_process_groups.py",
    "tests/handlers/test_process_shortage.py",
    "tests/handlers/test_process_start.py",
    "tests/handlers/test_late_loop.py",
)
MAIN = ("tests/proof/test_every_step.py", "tests/test_stopping.py")
EMBEDDING = ("tests/test_embedding.py", "tests/proof/test_every_step_of_a_block.py")
STOP = ("tests/test_stop.py", "tests/test_stopping.py")
CONNECTION = (
    "tests/server/test_hostile.py",
    "tests/server/test_requests.py",
    "tests/server/test_slow_clients.py",
    "tests/server/test_tls.py",
    "tests/server/test_stop.py",
    "tests/server/test_time_limits.py",
)
TIME_LIMITS = ("tests/server/test_time_limits.py", "tests/server/test_slow_clients.py")

# Lines that change their places.
TELL = (
    "        core.completions.end()  # who still waits for a job gets it as it is\n"
    "        pool_ended.set()\n"
)
NAME = (
    "        unfinished = core.unfinished_jobs()\n"
    "        if unfinished:\n"
    "            seconds = max(config.http.graceful_timeout, _REPORT_SECONDS)\n"
    "            write = partial(report.write, unfinished, logs, seconds=seconds)\n"
    "            try:\n"
    "                # With a limiter of its own: handlers may have filled Trio's.\n"
    "                await trio.to_thread.run_sync(write, limiter=trio.CapacityLimiter(1))\n"
    "            except RuntimeError:  # no thread to be had; it does not take for ever\n"
    "                write()\n"
)


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
        ("a job cut short is not released", "        store.release(job_id)\n", ""),
        (
            "release only after an Exception",
            "    except BaseException:  # the",
            "    except Exception:  # the",
        ),
        (
            "the worker swallows its end",
            "        store.release(job_id)\n        raise\n",
            "        store.release(job_id)\n        return\n",
        ),
        (
            "a refused claim ends the worker",
            '"reason": str(refusal)})\n        return\n',
            '"reason": str(refusal)})\n        raise\n',
        ),
        (
            "a job that is gone ends the server",
            "except (InvalidTransitionError, JobNotFoundError) as",
            "except InvalidTransitionError as",
        ),
        ("the clone is not closed", "    with jobs:\n", "    if True:\n"),
        (
            "a checkpoint before the claim",
            "    try:\n        job = store.claim(job_id)",
            ("    await trio.lowlevel.checkpoint()\n    try:\n        job = store.claim(job_id)"),
        ),
        (
            "a checkpoint before the record",
            "    store.complete(job_id, ending, duration=duration)\n",
            (
                "    await trio.lowlevel.checkpoint()\n"
                "    store.complete(job_id, ending, duration=duration)\n"
            ),
        ),
        (
            "each job is processed twice",
            "        ending = await process(job)\n",
            "        await process(job)\n        ending = await process(job)\n",
        ),
        ("one job a turn of the loop", "BURST_JOBS = 64\n", "BURST_JOBS = 1\n"),
        (
            "a burst has no end by time",
            "                if not left or now() >= burst_ends:\n",
            "                if not left:\n",
        ),
        (
            "a burst has no end by number",
            "                if not left or now() >= burst_ends:\n",
            "                if now() >= burst_ends:\n",
        ),
        (
            "a cancelled worker loses an id",
            (
                "                await trio.lowlevel.checkpoint_if_cancelled()\n"
                "                try:\n"
                "                    job_id = jobs.receive_nowait()\n"
            ),
            (
                "                try:\n"
                "                    job_id = jobs.receive_nowait()\n"
                "                    await trio.lowlevel.checkpoint_if_cancelled()\n"
            ),
        ),
        (
            "a cancelled pool goes on with its burst",
            "                await trio.lowlevel.checkpoint_if_cancelled()\n",
            "",
        ),
        (
            "a closed clone ends the server",
            "            except (trio.EndOfChannel, trio.ClosedResourceError):\n",
            "            except trio.EndOfChannel:\n",
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
            "  if trio.current_effective_deadline() == -math.inf:\n                if not",
            "  if isinstance(error, trio.Cancelled):\n                if not",
        ),
        (
            "no scope for each job",
            "            with trio.CancelScope() as scope:\n",
            "            for scope in [trio.CancelScope()]:\n",
        ),
        ("a cancelled job runs", "        if job.cancel_requested:\n", "        if False:\n"),
        (
            "cancelling frees the slot of a thread",
            "start_clock(handler.timeout, interruptible=False)",
            "start_clock(handler.timeout)",
        ),
        (
            "the value of a process goes over a cancel that was first",
            "return decided or Ending(outcome=_SUCCEEDED, result=answer)",
            "return Ending(outcome=_SUCCEEDED, result=answer)",
        ),
    ),
    *mutations(
        "handlers/processor.py",
        ("tests/proof/test_hard_limit.py",),  # only from outside a test can end such a thread
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
            "                self._look_at_clock()\n            elif",
            "                pass\n            elif",
        ),
        (
            "an end in time is late if the event loop is",
            "            if at is None or at >= self._deadline:\n",
            "            if True:\n",
        ),
    ),
    *mutations(
        "handlers/process_pool.py",
        PROCESSES,
        (
            "a failure beside a child's answer leaves the child",
            "                except BaseException:\n                    await self._end(child)",
            "                except ZeroDivisionError:\n                    await self._end(child)",
        ),
        (
            "a failure of a child's start leaves the child",
            "        except BaseException:\n            await self._end(child)",
            "        except ZeroDivisionError:\n            await self._end(child)",
        ),
        (
            "the slot of a child is given back too early",
            "        async with self._limiter:\n",
            "        async with self._limiter:\n            pass\n        if True:\n",
        ),
        (
            "a child's start is its job's time",
            "                child = await self._shortage.outlast(self._obtain)\n",
            (
                "                started()\n"
                "                child = await self._shortage.outlast(self._obtain)\n"
            ),
        ),
        (
            "a job that gets no process fails",
            "            except (OSError, MemoryError) as error:\n",
            "            except ZeroDivisionError as error:\n",
        ),
        (
            "a process with an import that failed serves on",
            "                if child.is_faulty:",
            "                if False:",
        ),
        (
            "an idle process that has died is reaped by the job that would take it",
            "for child in [each for each in self._idle if each.has_ended()]:",
            "for child in [each for each in self._idle[-1:] if each.has_ended()]:",
        ),
        (
            "a copy of the server keeps its children alive",
            "            child.close()\n",
            "            pass\n",
        ),
    ),
    *mutations(
        "handlers/child.py",
        PROCESSES,
        (
            "a child that a failure has killed is not waited for",
            "                await self._wait_ended()  # noqa: ASYNC102 - bounded\n",
            "                pass\n",
        ),
        (
            "what a child has started outlives it",
            "                os.killpg(self._process.pid, signal.SIGKILL)\n",
            "                os.kill(self._process.pid, signal.SIGKILL)\n",
        ),
        (
            "the end of a child is that of its pipe",
            "            self._either.register(self._pidfd, select.EPOLLIN)\n",
            "",
        ),
        (
            "a child that does not end is waited for",
            "        with trio.move_on_after(_DYING_TIME):\n",
            "        with trio.CancelScope():\n",
        ),
        (
            "an answer that is there is thrown away with its child",
            "            if not self._has_answered():\n",
            "            if True:\n",
        ),
        (
            "a job that a dead child has not taken fails",
            "            if self._unread():\n",
            "            if False:\n",
        ),
    ),
    *mutations(
        "child_process.py",
        PROCESSES,
        (
            "what a child starts ignores its signals",
            "            signal.signal(number, _do_nothing)\n",
            "            signal.signal(number, signal.SIG_IGN)\n",
        ),
        (
            "exhaustion is told by an error's type",
            "    return one_line(fault) if _is_exhausted() else None\n",
            "    return None\n",
        ),
        (
            "a module that could not be imported is imported again",
            " or self._faults.get(module)\n",
            "\n",
        ),
        (
            "new code that cannot be imported is its jobs' fault",
            "loaded_only=not self._faults",
            "loaded_only=True",
        ),
        (
            "the kernel ends the child alone",
            "fcntl.F_SETOWN, -os.getpgrp())",
            "fcntl.F_SETOWN, os.getpid())",
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
            "the receive end is left open",
            "                receive.close()  # the workers hold the clones\n",
            "",
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
            "who waits is told of the end after the unfinished are named",
            f"{TELL}{NAME}",
            f"{NAME}{TELL}",
        ),
        (
            "HTTP does not close while the unfinished are named",
            f"{TELL}{NAME}",
            f"        core.completions.end()\n{NAME}        pool_ended.set()\n",
        ),
        (
            "the unfinished are named through the threads that handlers use",
            "run_sync(write, limiter=trio.CapacityLimiter(1))",
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
        "embedding.py",
        EMBEDDING,
        (
            "a block leaves a clone of the send end open",
            "    core = make_core(\n",
            "    left_open = send.clone()  # noqa: F841\n    core = make_core(\n",
        ),
        (
            "a block leaves the receive end open",
            "            receive.close()  # the workers hold the clones\n",
            "",
        ),
        ("leaving the block does not begin the drain", "            left.set()\n", ""),
        (
            "the submissions are closed only when the block is left in order",
            "    try:\n        await left.wait()\n    finally:\n        core.submissions",
            "    if True:\n        await left.wait()\n    if True:\n        core.submissions",
        ),
        (
            "who waits is not told of the end of a pool in a block",
            "            core.completions.end()  # who",
            "            pass  # who",
        ),
        (
            "Ctrl-C can come between the end of a pool and who waits",
            "@trio.lowlevel.enable_ki_protection\nasync def _work",
            "async def _work",
        ),
        (
            "who waits is told of the end when the first worker goes",
            "        if jobs.statistics().open_receive_channels == 0:",
            "        if True:",
        ),
        (
            "the child processes end before the pool",
            "core.processes or nullcontext(), trio.open_nursery() as pool:",
            "trio.open_nursery() as pool, core.processes or nullcontext():",
        ),
        (
            "an exception leaves the block in a group",
            "        alone = left_by is not None and _leaves(group) <= _leaves(left_by)\n",
            "        alone = False\n",
        ),
        (
            "a crash is lost behind what leaves the block",
            " and _leaves(group) <= _leaves(left_by)\n",
            "\n",
        ),
        (
            "an exception that leaves the block gets the group as its context",
            "        if not alone:\n            raise\n",
            "        if not alone:\n            raise\n        raise left_by\n",
        ),
        (
            "what a block leaves unfinished is not named",
            "        for event, fields in core.unfinished():\n",
            "        for event, fields in ():\n",
        ),
        (
            "unfinished jobs are named only when the block is left in order",
            "    finally:\n        trio.lowlevel.remove_instrument(generator_ends)\n",
            "    else:\n        trio.lowlevel.remove_instrument(generator_ends)\n",
        ),
        (
            "what follows the generators of handlers stays",
            "        trio.lowlevel.remove_instrument(generator_ends)\n",
            "",
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
            "the window of a repetition begins with the first signal alone",
            "        self._last = now\n        self._count += 1\n",
            (
                "        self._last = now if self._count == 0 else self._last\n"
                "        self._count += 1\n"
            ),
        ),
        (
            "the first signal does not arm the hard limit",
            "self._arm(since=now, seconds=self._grace_period + self._closing_time)\n",
            "pass\n",
        ),
        (
            "the second signal does not arm the hard limit",
            "            self._arm(since=now, seconds=self._closing_time)\n",
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
        "cli.py",
        ("tests/test_stopping.py",),
        ("the signals are not taken over", "    signals.take()\n", "    pass\n"),
    ),
    *mutations(
        "cli.py",
        ("tests/test_exit_statuses.py",),
        (
            "a mistake in a module leaves the end to the interpreter",
            "    return end_unserved(status)\n",
            "    return status\n",
        ),
    ),
    *mutations(
        "signals.py",
        ("tests/test_exit_statuses.py", "tests/test_takeovers.py"),
        (
            "what was ignored at the start is taken",
            "if not _is(_getsignal(signum), signal.SIG_IGN):",
            "if True:",
        ),
        (
            "what user code has done to a signal stays",
            "                signal.signal(signum, handler)\n",
            "                pass\n",
        ),
        (
            "a noted signal ends no start that hangs",
            "            signal.setitimer(signal.ITIMER_REAL, _NOTED_SECONDS)\n",
            "            pass\n",
        ),
    ),
    *mutations(
        "stop/wakeup.py",
        ("tests/test_stopping.py",),
        (
            "signals wait for a main thread that never comes",
            "            self._signals.handle_written()\n",
            "            pass\n",
        ),
    ),
    *mutations(
        "stop/end.py",
        ("tests/test_exit_statuses.py",),
        (
            "the last words come before the last threads",
            "    threading._shutdown()  # type: ignore[attr-defined]\n",
            "",
        ),
        ("what is registered for the end does not run", "    atexit._run_exitfuncs()\n", ""),
    ),
    *mutations(
        "server/sockets.py",
        ("tests/test_forks.py",),
        (
            "a child that is forked holds listeners and connections",
            "                os.dup2(nowhere, fd, inheritable=False)\n",
            "                pass\n",
        ),
    ),
    *mutations(
        "fork_mask.py",
        ("tests/test_forks.py",),
        (
            "a signal may come before a child has its own handlers",
            "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
            "signal.pthread_sigmask(signal.SIG_BLOCK, ())",
        ),
    ),
    *mutations(
        "forks.py",
        ("tests/test_forks.py",),
        (
            "a copy of the event loop goes on",
            "        trio.lowlevel.add_instrument(_EndsCopy())\n",
            "        pass\n",
        ),
    ),
    *mutations(
        "main.py",
        ("tests/test_exit_statuses.py", "tests/test_stopping.py"),
        (
            "a server that stops while it starts lets clients in",
            "    opening.cancel()  # a server that stops while it starts lets nobody in\n",
            "",
        ),
        (
            "a worker may leave as it likes",
            "            check_channel_has_ended(jobs)\n",
            "",
        ),
        (
            "HTTP may end as it likes",
            "            self._check_that_it_was_to_end()\n",
            "",
        ),
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
        (
            "the last lines are not waited for",
            "        logs.flush(seconds=_FLUSH_SECONDS)\n",
            "",
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
            "            os._exit(self._status)\n",
            "            sys.exit(self._status)\n",
        ),
        (
            "an exit that needs the report to succeed",
            "        finally:\n            # Not",
            "        except ZeroDivisionError:\n            pass\n        else:\n            # Not",
        ),
        ("the report waits for its reader", "data, left) < len", "data, None) < len"),
        (
            "what a handler has done to SIGALRM stays",
            "            signal.signal(signal.SIGALRM, signal.SIG_DFL)\n",
            "            pass\n",
        ),
    ),
    *mutations(
        "stop/hard_limit.py",
        ("tests/test_takeovers.py",),
        (
            "a timer that runs is taken for the server's own",
            "        return ends and abs(off) < _SLACK_SECONDS\n",
            "        return ends and off > -left - SIGALRM_AFTER_SECONDS\n",
        ),
    ),
    *mutations(
        "takeovers.py",
        ("tests/test_takeovers.py",),
        (
            "a job is forgotten by a look that leaves something out",
            "        if is_whole:\n            self._earlier",
            "        if True:\n            self._earlier",
        ),
    ),
    *mutations(
        "server/connection.py",
        CONNECTION,
        (
            "only an Exception ends its connection alone",
            "        except BaseException as error:  # noqa: ASYNC103 - the",
            "        except Exception as error:  # noqa: ASYNC103 - the",
        ),
        (
            "a client that has left is a failure",
            "except (ClientLeftError, trio.BrokenResourceError, trio.ClosedResourceError) as",
            "except ClientLeftError as",
        ),
        (
            "a failure of ours is taken for a client that has left",
            "except (ClientLeftError, trio.BrokenResourceError, trio.ClosedResourceError) as",
            "except Exception as",
        ),
        (
            "what comes after an early answer is read for ever",
            "await self.receive_some(deadline)):\n",
            "await self.receive_some()):\n",
        ),
        (
            "a handshake has no deadline",
            "self._transport.receive_by = self._idle_until(self._limits.header_timeout)",
            "self._transport.receive_by = inf",
        ),
        (
            "the stop takes no notice of what is in the socket of an idle connection",
            "            self._transport.stop_waiting()\n",
            "            self.abort()\n",
        ),
        (
            "the stop waits for idle connections that it has just let in",
            "return -inf if self._shared.stopping else self.time",
            "return self.time",
        ),
        (
            "a client that does not read leaves the application running",
            "            self._scope.cancel()\n            await trio.lowlevel.checkpoint_if",
            "            await trio.lowlevel.checkpoint_if",
        ),
        (
            "a limit of a request is measured by Trio's clock",
            "deadline = self.time.now() + limits.header_timeout",
            "deadline = trio.current_time() + limits.header_timeout",
        ),
    ),
    *mutations(
        "server/transport.py",
        TIME_LIMITS,
        (
            "a wait is given up without another look at the socket",
            "            over = self._waiting.cancelled_caught",
            (
                "            over = self._waiting.cancelled_caught\n"
                "            if over and self._time.passed(self.receive_by):\n"
                "                raise TimeUpError\n"
                "            over = self._waiting.cancelled_caught"
            ),
        ),
        (
            "a wait is given up without another try to send",
            "            with data[sent:] as rest:\n",
            (
                "            if over:\n"
                "                raise TimeUpError\n"
                "            with data[sent:] as rest:\n"
            ),
        ),
        (
            "Trio's clock is believed about a client that sends",
            "self._waiting.cancelled_caught and self._time.passed(self.receive_by)",
            "self._waiting.cancelled_caught",
        ),
        (
            "Trio's clock is believed about a client that reads",
            "waiting.cancelled_caught and self._time.passed(deadline)",
            "waiting.cancelled_caught",
        ),
        (
            "a client that does not read has for ever",
            "deadline = self._time.now() + self._send_timeout",
            "deadline = inf",
        ),
        (
            "a client that takes a bit now and then has for ever",
            "last = self._time.now() + _TIMES_IN_ALL * self._send_timeout",
            "last = inf",
        ),
        (
            "a client that reads has no more time than one that does not",
            "deadline = min(last, self._time.now() + self._send_timeout)",
            "pass",
        ),
        (
            "the stop leaves a connection that waits as it is",
            "            self._waiting.cancel()\n",
            "            pass\n",
        ),
    ),
    *mutations(
        "server/client_time.py",
        TIME_LIMITS,
        ("a turn counts in full", "_LONGEST_TURN = 0.1", "_LONGEST_TURN = inf"),
        (
            "a wait that ended too late counts in full",
            "        self._charge_until(now)\n        self._charged_until = now + _LONGEST_TURN",
            "        self._charged_until = now + _LONGEST_TURN",
        ),
        (
            "the middle of a turn that is too long counts",
            "min(trio.current_time(), self._charged_until)",
            "trio.current_time()",
        ),
    ),
    *mutations(
        "server/front_door.py",
        TIME_LIMITS,
        (
            "the stop's patience ends while the loop is blocked",
            "        while self._connections and not self._time.passed(deadline):\n",
            "        if self._connections:\n",
        ),
        (
            "the stop cuts who is reading",
            "if one.progress() == before[one]}",
            "}",
        ),
        (
            "the stop waits for whoever has read once",
            "        while self._connections:\n            await self._wait_and_look",
            "        while self._connections:\n            await trio.sleep_forever()",
        ),
    ),
    *mutations(
        "server/body.py",
        CONNECTION,
        ("a body has for ever", "_connection.receive_some(deadline)", "_connection.receive_some()"),
    ),
    *mutations(
        "server/http11.py",
        TIME_LIMITS,
        (
            "the stop forgets the request behind an answer",
            "            self.head_only = False\n            return True\n",
            "            self.head_only = False\n            return not self._shared.stopping\n",
        ),
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
    *mutations(
        "drop_log.py",
        ("tests/test_drop_log.py",),
        ("each drop is a line", "if now >= self._due or (", "if True or ("),
        ("a failure waits for its hour", " or (now >= self._warning_due", " and (now >= self._due"),
        ("a line tells all drops again", "        self._logged = dict(dropped)\n", ""),
        (
            "a failure is no warning",
            "logging.WARNING if failures else",
            "logging.INFO if True else",
        ),
    ),
    *mutations(
        "leftovers.py",
        ("tests/test_leftovers.py",),
        ("an earlier file is written over", "os.O_CREAT | os.O_EXCL", "os.O_CREAT"),
        ("everybody may read the file", "flags, 0o600", "flags, 0o644"),
        (
            "interrupted jobs are among those to be taken up",
            "path = self._interrupted if begun else self._path",
            "path = self._path",
        ),
        ("a cancelled job is taken up again", " if not job.cancel_requested]", "]"),
        ("a payload's line end ends its line", '.replace(b"\\n", b" ")', ""),
        ("half a line stays", "            if whole < written:\n", "            if False:\n"),
        (
            "a disk that is merely slow is waited for",
            "                if time.monotonic() > end:\n",
            "                if False:\n",
        ),
        ("no descriptor is kept", "        os.close(self._reserved)\n", ""),
        ("the path follows the working folder", "path.absolute()", "path"),
        ("nothing is too late", "if time.monotonic() > end:", "if False:"),
    ),
    *mutations(
        "unfinished_report.py",
        ("tests/test_leftovers.py",),
        (
            "names that come too late are not counted",
            "            if time.monotonic() > end:\n",
            "            if False:\n",
        ),
    ),
    *mutations(
        "unfinished.py",
        ("tests/test_unfinished.py",),
        ("a long type costs the ids", "readable(job_type, _MAX_TYPE)", "job_type"),
        ("the ids do not fit into a line", "_IDS_PER_LINE = 50", "_IDS_PER_LINE = 60"),
        ("a line for each type", "_OF_THEIR_OWN = 50", "_OF_THEIR_OWN = 50_000"),
        ("a comma in a type ends it", 'safe=":/@+"', 'safe=":/@+,"'),
        ("the types do not fit into a line", "_TYPES_FIELD = 2_000", "_TYPES_FIELD = 3_000"),
    ),
    *mutations(
        "logs/own_loggers.py",
        ("tests/test_logs_command.py",),
        (
            "the server's loggers can be silenced",
            "        return level >= self._least\n\n    def getE",
            "        return super().isEnabledFor(level)\n\n    def getE",
        ),
        (
            "the server's lines pass the root's handlers",
            "        self._writer.handle(record)\n",
            "        super().handle(record)\n",
        ),
    ),
    *mutations(
        "logs/lines.py",
        ("tests/test_logs_command.py",),
        (
            "the server's records are made by user code",
            "    record = LogRecord(",
            "    record = logging.getLogRecordFactory()(",
        ),
    ),
    *mutations(
        "logs/hold.py",
        ("tests/test_logs_command.py",),
        (
            "the handler of the root is not looked for",
            "self._writer in self._root.handlers\n",
            "True\n",
        ),
        ("the level of the root is not put back", "        self._root.setLevel(self._level)\n", ""),
        (
            "the hook of threads is not put back",
            "threading.excepthook = self._thread_hook\n",
            "pass\n",
        ),
    ),
    *mutations(
        "logs/writer.py",
        ("tests/test_logs.py",),
        (
            "a child queues its lines for a thread that is not there",
            "        self._direct = DirectLines(self._fd, self._render)\n",
            "",
        ),
    ),
    *mutations(
        "logs/direct.py",
        ("tests/test_logs.py",),
        ("a child's long line is torn", ", max_bytes=PIECE_BYTES", ""),
        (
            "a child writes into a file of its own",
            "        if _identity(self._fd) != self._stream:\n",
            "        if False:\n",
        ),
        ("each line of a child waits", "0 if self._dropped else _SECONDS", "_SECONDS"),
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a run of tests has ended.

    Attributes:
        status: What pytest returned; None if it was killed because it took too long.
        output: What it has written.
        seconds: How long it took.
    """

    status: int | None
    output: str
    seconds: float

    @property
    def failed(self) -> str:
        """The first test that failed; else the end of the output."""
        first = re.search(r"^(?:FAILED|ERROR) (tests/.*?)(?: - |$)", self.output, re.MULTILINE)
        return first[1] if first else self.output.strip()[-100:]


def run_tests(tests: Sequence[str], copy: Path, *, patience: float | None = None) -> Ran:
    """Run tests against the sources in ``copy``, for so many seconds at the most."""
    environment = os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    began = time.monotonic()
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
            output, _ = process.communicate(timeout=patience)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = None
    return Ran(status=status, output=output, seconds=time.monotonic() - began)


def run_right(tests: Sequence[str], copy: Path) -> float:
    """Run tests against the right version, which must pass; how many seconds that takes."""
    right = run_tests(tests, copy)
    if right.status != 0:
        sys.exit(f"the tests do not pass as they are: {right.failed}\n{right.output[-2000:]}")
    return right.seconds


def run_wrong(mutation: Mutation, copy: Path, *, right_seconds: float) -> tuple[Verdict, str]:
    """Run the tests against a wrong version; the verdict, and it in words."""
    path = copy / "src" / "trio_jobs" / mutation.file
    right = path.read_text()
    path.write_text(right.replace(mutation.old, mutation.new, 1))
    patience = PATIENCE_TIMES * right_seconds + PATIENCE_SECONDS
    try:
        ran = run_tests(mutation.tests, copy, patience=patience)
    finally:
        path.write_text(right)
    if ran.status is None:
        return Verdict.HANGS, f"HANGS: not over after {patience:.0f} s"
    if ran.status == 0:
        return Verdict.SURVIVED, "SURVIVED"
    if ran.status != TESTS_FAILED:
        sys.exit(f"{mutation.what}: the tests cannot run against it\n{ran.output[-2000:]}")
    return Verdict.NOTICED, f"noticed by {ran.failed}"


def choose(words: Sequence[str]) -> list[Mutation]:
    """Those with one of the words in their descriptions or files; of that, the share to be run."""
    chosen = [
        each
        for each in MUTATIONS
        if not words or any(word in f"{each.file}: {each.what}" for word in words)
    ]
    return chosen[:: math.ceil(1 / share_of(1))]


def copy_project(copy: Path) -> None:
    """Copy what the tests need."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "config.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)


def main(words: Sequence[str]) -> int:
    """Run the wrong versions that the words choose; without any, all of them."""
    verdicts: Counter[Verdict] = Counter()
    right_seconds: dict[tuple[str, ...], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        for mutation in choose(words):
            if mutation.tests not in right_seconds:
                right_seconds[mutation.tests] = run_right(mutation.tests, copy)
            right = right_seconds[mutation.tests]
            began = time.monotonic()
            verdict, text = run_wrong(mutation, copy, right_seconds=right)
            verdicts[verdict] += 1
            took = time.monotonic() - began
            sys.stdout.write(
                f"{mutation.file}: {mutation.what}: {text} ({took:.0f} s; right: {right:.0f} s)\n"
            )
            sys.stdout.flush()
    counts = ", ".join(f"{verdicts[each]} {each.value}" for each in Verdict)
    sys.stdout.write(f"{verdicts.total()} wrong versions: {counts}\n")
    return 1 if verdicts[Verdict.SURVIVED] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

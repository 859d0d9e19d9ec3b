"""Three accounts of jobs that servers share: the clients', the ledger's and the database's."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Literal

# Nanoseconds of the clock that all processes share; infinite for what has not happened.
Time = float


@dataclass
class Fates:
    """What has become of processes, by process id.

    Attributes:
        killed: When they were ended by SIGKILL.
        frozen: From when to when they were stopped, and went on.
        refused: By process, the jobs whose ends the database has refused, as its log says.
    """

    killed: dict[int, Time] = field(default_factory=dict)
    frozen: dict[int, list[tuple[Time, Time]]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    def was_frozen(self, process: int, at: Time) -> bool:
        """Whether a process stood still at this time."""
        return any(begin <= at <= end for begin, end in self.frozen[process])


@dataclass
class Run:
    """One run of a job.

    Attributes:
        process: Where.
        attempt: Which attempt of the job it was, as the handler was told.
        begun: When it began.
        steps: When its handler took steps.
        over: When it was over.
        how: How; ``lost`` if its process says nothing of that.
    """

    process: int
    attempt: int
    begun: Time
    steps: list[Time] = field(default_factory=list)
    over: Time = inf
    how: Literal["end", "cut", "lost"] = "lost"


@dataclass
class Account:
    """What the comparison has found.

    Attributes:
        faults: What must not be, a line each.
        again: Runs that came after an end which no process had recorded.
        thawed: Runs that were cut off when their process went on, after another had begun the job;
            also those that began at that moment.
        cut: Runs that were cut off.
    """

    faults: list[str] = field(default_factory=list)
    again: int = 0
    thawed: int = 0
    cut: int = 0


def read_ledger(folder: Path) -> dict[str, list[Run]]:
    """The runs of each job, by its id, in the order in which they began."""
    runs: dict[str, list[Run]] = defaultdict(list)
    for path in folder.iterdir():
        process = int(path.name)
        last: dict[str, Run] = {}
        for line in path.read_text().splitlines():
            word, _token, job_id, attempt, time = line.split()
            if word == "begin":
                last[job_id] = Run(process, int(attempt), int(time))
                runs[job_id].append(last[job_id])
                continue
            run = last[job_id]
            if word != "cut":
                run.steps.append(int(time))
            if word != "half":
                run.over, run.how = int(time), "end" if word == "end" else "cut"
    for each in runs.values():
        each.sort(key=lambda run: run.begun)
    return runs


def compare(
    told: dict[str, str],
    rows: dict[str, tuple[str, str, str | None, int]],
    runs: dict[str, list[Run]],
    fates: Fates,
) -> Account:
    """Compare what clients were told with what the handlers did and what the database says.

    Args:
        told: By token, the id of each job that was accepted.
        rows: By id, the type, the key, the outcome and the attempts of each job in the database.
        runs: See `read_ledger`.
        fates: What has become of the processes.
    """
    account = Account()
    for token, job_id in told.items():
        if job_id not in rows:
            account.faults.append(f"lost: {token} {job_id}")
    for key, number in Counter(row[1] for row in rows.values()).items():
        if number > 1:
            account.faults.append(f"{number} jobs with the key {key}")
    woken = _woken([run for each in runs.values() for run in each], fates)
    for job_id, (type_, _, outcome, _) in rows.items():
        counted: list[Run] = []
        for run in runs.get(job_id, []):
            if counted and woken.get(id(run), inf) < counted[-1].begun:
                account.thawed += 1
                account.cut += 1
            else:
                counted.append(run)
        _compare_job(job_id, type_, outcome, counted, fates, account)
    for job_id in runs.keys() - rows.keys():
        account.faults.append(f"ran, and is not there: {job_id}")
    return account


def _woken(runs: Sequence[Run], fates: Fates) -> dict[int, Time]:
    """By the identity of a run, since when its process had stood still when the run began.

    Their workers were about to begin them at that moment, with the lease that they had. The
    handlers have taken no step: they were cut at their first checkpoint.
    """
    woken: dict[int, Time] = {}
    for process, intervals in fates.frozen.items():
        mine = [run for run in runs if run.process == process]
        for begin, end in intervals:
            times = (time for run in mine for time in (run.begun, *run.steps, run.over))
            first = min((time for time in times if time > end), default=inf)
            for run in mine:
                if run.begun == first and run.how == "cut" and not run.steps:
                    woken[id(run)] = begin
    return woken


def _compare_job(
    job_id: str, type_: str, outcome: str | None, runs: list[Run], fates: Fates, account: Account
) -> None:
    known = (
        {"succeeded", "cancelled", "interrupted"} if type_ == "once" else {"succeeded", "cancelled"}
    )
    if outcome not in known:
        account.faults.append(f"{job_id} of type {type_} is {outcome}")
    ends = [run for run in runs if run.how == "end"]
    if outcome == "succeeded" and len(ends) < (2 if type_ == "flaky" else 1):
        account.faults.append(f"succeeded without its runs: {job_id} {runs}")
    if type_ == "once" and len(runs) > 1:
        account.faults.append(f"ran twice, and may not: {job_id} {runs}")
    account.cut += sum(run.how == "cut" for run in runs)
    for run in runs:
        if run.how == "lost" and run.process in fates.killed:
            run.over = fates.killed[run.process]
    for first, second in pairwise(runs):
        if first.over > second.begun:
            # A step that was under way when the process was frozen is taken when it goes on.
            steps = sum(step > second.begun for step in first.steps)
            if steps <= 1 and fates.was_frozen(first.process, second.begun):
                account.thawed += 1
            else:
                account.faults.append(f"at the same time: {job_id} {first} {second}")
        # The first attempt of a flaky job asks for the second.
        wanted = type_ == "flaky" and (first.attempt, second.attempt) == (1, 2)
        if first.how == "end" and not wanted:
            account.again += 1
            is_refused = job_id in fates.refused[first.process]
            is_late = is_refused or fates.was_frozen(first.process, second.begun)
            if first.process not in fates.killed and not is_late:
                account.faults.append(f"ran again after its end: {job_id} {first} {second}")

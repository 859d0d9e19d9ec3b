"""Three accounts of the same jobs: what clients were told, the handlers' ledger, and the log."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(slots=True)
class Told:
    """What clients know.

    Attributes:
        accepted: Ids by token, of what was answered with 201.
        refused: Tokens of what was answered with anything else.
        unanswered: Tokens of what got no answer: the job may be in, or not.
        statuses: How often a submission was answered with which status.
    """

    accepted: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the handlers have written.

    Attributes:
        began: How often each token began.
        ended: How often each ended, or returned.
        returned: Tokens that ended in a thread or a process: the server may not have got to know.
        ids: The ids of the jobs by token, where the handler has asked.
    """

    began: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    returned: set[str] = field(default_factory=set)
    ids: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The ledger that `tests.proof.work` has kept in this folder."""
        path = folder / "ledger"
        return cls.of(path.read_text().splitlines() if path.exists() else [])

    @classmethod
    def of(cls, lines: Iterable[str]) -> Self:
        """A ledger of these lines."""
        ledger = cls()
        for line in lines:
            word, token, *job_id = line.split(" ")
            (ledger.began if word == "begin" else ledger.ended)[token] += 1
            if word == "return":
                ledger.returned.add(token)
            if job_id:
                ledger.ids[token] = job_id[0]
        return ledger

    @property
    def cut_off(self) -> set[str]:
        """What began and did not end."""
        return self.began.keys() - self.ended.keys()


def named(lines: Iterable[str], event: str) -> list[str]:
    """The ids that the log's lines with this event name."""
    found = [re.search(rf" {event} .*job_ids=(\S+)", line) for line in lines]
    return [job_id for match in found if match for job_id in match[1].split(",")]


def check(told: Told, ledger: Ledger, lines: list[str], status: int) -> None:
    """Accepted = completed + named as unfinished; none twice; the exit status is right.

    For a log that was read to its end.
    """
    interrupted = named(lines, "jobs_interrupted")
    not_started = named(lines, "jobs_not_started")
    unfinished = Counter(interrupted + not_started)

    check_what_ran(told, ledger)
    assert max(unfinished.values(), default=0) <= 1, "a job was named twice"
    for token, job_id in told.accepted.items():
        completed = ledger.ended[token] == 1 and not unfinished[job_id]
        assert completed + unfinished[job_id] == 1, (
            f"{token} ({job_id}): completed {completed}, named {unfinished[job_id]} times"
        )
        # One that is named as interrupted may have come anywhere: it was claimed, but may not
        # have got to its first line, and a thread may even have written its last.
        assert not (ledger.began[token] and job_id in not_started), token
        assert not (unfinished[job_id] and ledger.ended[token]) or token in ledger.returned, (
            f"{token} ({job_id}) has ended, and is named"
        )
    # What the log names beyond that, clients were not told of: they had hung up, or were cut off.
    strangers = unfinished.keys() - told.accepted.values()
    assert len(strangers) <= len(told.unanswered)
    check_cut_off(told, ledger, set(interrupted))
    assert status == (1 if unfinished else 0)


def check_cut_off(told: Told, ledger: Ledger, interrupted: set[str]) -> None:
    """What began and did not end is named as interrupted, whether or not a client was told of it.

    Not every handler asks for the job's id: the others are counted.
    """
    for token in ledger.cut_off & ledger.ids.keys():
        assert ledger.ids[token] in interrupted, f"{token} was cut off, and is not named"
    strangers = interrupted - set(told.accepted.values())
    assert len(ledger.cut_off & told.unanswered) <= len(strangers)


def check_without_log(told: Told, ledger: Ledger, status: int) -> None:
    """The same without names, because the log could not be written: the exit status has to tell."""
    check_what_ran(told, ledger)
    assert status in (0, 1), "it has not ended in order"
    left = [token for token in told.accepted if not ledger.ended[token]]
    if left or ledger.cut_off:
        assert status == 1, f"{len(left)} accepted jobs were left, {len(ledger.cut_off)} cut off"
    # Also where all of these have ended, the status may be 1: clients that hung up have had jobs
    # in the buffer, a thread has returned too late.
    assert status == 0 or told.unanswered or left or ledger.returned


def check_what_ran(told: Told, ledger: Ledger) -> None:
    """Nothing ran twice, and nothing that was refused."""
    assert max(ledger.began.values(), default=0) <= 1, "a job ran twice"
    assert max(ledger.ended.values(), default=0) <= 1, "a job ended twice"
    assert ledger.ended.keys() <= ledger.began.keys(), "a job ended that had not begun"
    assert not told.refused & ledger.began.keys(), "a refused job ran"
    assert ledger.began.keys() <= told.accepted.keys() | told.unanswered
    for token in told.accepted.keys() & ledger.ids.keys():
        assert told.accepted[token] == ledger.ids[token], f"{token} ran as another job"

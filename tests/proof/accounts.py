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
    """

    accepted: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the handlers have written: how often each token began, and ended."""

    began: Counter[str]
    ended: Counter[str]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The ledger that `tests.proof.work` has kept in this folder."""
        path = folder / "ledger"
        lines = [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []
        return cls(
            began=Counter(token for word, token in lines if word == "begin"),
            ended=Counter(token for word, token in lines if word == "end"),
        )


def named(lines: Iterable[str], event: str) -> list[str]:
    """The ids that the log's lines with this event name."""
    found = [re.search(rf" {event} job_ids=(\S+)", line) for line in lines]
    return [job_id for match in found if match for job_id in match[1].split(",")]


def check(told: Told, ledger: Ledger, lines: list[str], status: int) -> None:
    """Accepted = completed + named as unfinished; none twice; the exit status is right.

    For jobs that end by themselves (`work`, `fail`), and a log that was read to its end.
    """
    interrupted = named(lines, "jobs_interrupted")
    not_started = named(lines, "jobs_not_started")
    unfinished = Counter(interrupted + not_started)

    assert max(ledger.began.values(), default=0) <= 1, "a job ran twice"
    assert max(ledger.ended.values(), default=0) <= 1, "a job ended twice"
    assert max(unfinished.values(), default=0) <= 1, "a job was named twice"
    assert not told.refused & set(ledger.began), "a refused job ran"
    for token, job_id in told.accepted.items():
        completed = ledger.ended[token] == 1 and not unfinished[job_id]
        assert completed + unfinished[job_id] == 1, (
            f"{token} ({job_id}): completed {completed}, named {unfinished[job_id]} times"
        )
        # One that is named as interrupted may have come anywhere: it was claimed, but may not
        # have got to its first line, and a thread may even have written its last.
        assert ledger.began[token] >= completed, token
        assert not (ledger.began[token] and job_id in not_started), token
    # What the log names beyond that, clients were not told of: they had hung up.
    assert len(unfinished.keys() - told.accepted.values()) <= len(told.unanswered)
    assert set(ledger.began) <= told.accepted.keys() | told.unanswered
    assert status == (1 if unfinished else 0)

"""Idempotency: a submission whose key is known makes no second job, it finds the first one."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from trio_jobs.job import Job
from trio_jobs.pool.admission import Admission
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import AdmissionError
from trio_jobs.pool.store import DuplicateJobError, Store


class KeyReusedError(AdmissionError):
    """A key was used before with another submission.

    Attributes:
        indexes: Which of the submissions have such a key.
    """

    reason = "invalid"

    def __init__(self, key: str, indexes: Sequence[int] = (0,)) -> None:
        super().__init__(f"the key {key!r} was used with another submission")
        self.indexes = indexes


class Submitted(msgspec.Struct, frozen=True, gc=False):
    """A job that a submission has made, or found by its key.

    Attributes:
        job: The job; as it is now, if it was found.
        replayed: Whether it was found.
    """

    job: Job
    replayed: bool


async def admit(spec: JobSpec, admission: Admission, store: Store) -> Submitted:
    """Admit one job, or find the job that its key has made before.

    With a store in memory, this makes no checkpoint: of two simultaneous submissions with one key,
    the second finds the job of the first.

    Raises:
        KeyReusedError: The key was used with another submission.
        AdmissionError: See `Admission.submit`; a known job is found also in a full or closed pool.
    """
    while spec.key is not None:
        if (first := (await store.find_keys([spec.key.text])).get(spec.key.text)) is not None:
            if first.key != spec.key:
                raise KeyReusedError(spec.key.text)
            return Submitted(first, replayed=True)
        with suppress(DuplicateJobError):  # another client was faster: find its job
            return Submitted(await admission.admit(spec), replayed=False)
    return Submitted(await admission.admit(spec), replayed=False)


async def admit_all(
    specs: Sequence[JobSpec], admission: Admission, store: Store
) -> list[Submitted]:
    """Admit all of these jobs or none; those with a known key find the jobs that are there.

    A key may stand in several specs, if these are the same submission: the first makes the job.

    Raises:
        KeyReusedError: Keys were used with other submissions, perhaps of the same batch.
        AdmissionError: See `Admission.submit_all`; only new jobs need room.
    """
    keyed = {text: index for index, text in _texts(specs)[::-1]}  # the first index of each
    if not keyed:
        return [Submitted(job, replayed=False) for job in await admission.admit_all(specs)]
    while True:
        known = await store.find_keys(keyed)
        _check_same(specs, known, keyed)
        new = [
            index
            for index, spec in enumerate(specs)
            if spec.key is None or (spec.key.text not in known and keyed[spec.key.text] == index)
        ]
        with suppress(DuplicateJobError):  # another client was faster: find its job
            jobs = await admission.admit_all([specs[index] for index in new]) if new else []
            made = dict(zip(new, jobs, strict=True))
            known |= {job.key.text: job for job in jobs if job.key is not None}
            return [
                Submitted(known[spec.key.text], replayed=True)
                if index not in made and spec.key is not None
                else Submitted(made[index], replayed=False)
                for index, spec in enumerate(specs)
            ]


def _texts(specs: Sequence[JobSpec]) -> list[tuple[int, str]]:
    return [(index, spec.key.text) for index, spec in enumerate(specs) if spec.key is not None]


def _check_same(
    specs: Sequence[JobSpec], known: Mapping[str, Job], keyed: Mapping[str, int]
) -> None:
    """Check that each key names one submission, here and in the store."""
    reused = [
        index
        for index, text in _texts(specs)
        if specs[index].key != (known[text].key if text in known else specs[keyed[text]].key)
    ]
    if reused:
        key = specs[reused[0]].key
        assert key is not None  # noqa: S101  (for the type checker: it comes from `_texts`)
        raise KeyReusedError(key.text, reused)


class KnownKeys:
    """The jobs that the keys of a stream's next submissions have made before.

    Args:
        store: Where the jobs are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Job] = {}

    async def look_up(self, specs: Sequence[JobSpec]) -> None:
        """Look the keys of these submissions up; forget all others."""
        texts = [text for _, text in _texts(specs)]
        self._known = await self._store.find_keys(texts) if texts else {}

    def note(self, admitted: Sequence[Job]) -> None:
        """Note that submissions have made these jobs."""
        self._known |= {job.key.text: job for job in admitted if job.key is not None}

    def leading(self, specs: Sequence[JobSpec]) -> tuple[list[Job], int]:
        """The jobs that the first ones find, and how many after them are new.

        If a key was used with another submission, both end before that one; if it is the first,
        this raises.

        Raises:
            KeyReusedError: The key of the first one was used with another submission.
        """
        if not self._known:
            return [], len(specs)
        found: list[Job] = []
        for spec in specs:
            if spec.key is None or (first := self._known.get(spec.key.text)) is None:
                break
            if first.key != spec.key:
                if not found:
                    raise KeyReusedError(spec.key.text)
                return found, 0
            found.append(first)
        new = 0
        for spec in specs[len(found) :]:
            if spec.key is not None and spec.key.text in self._known:
                break
            new += 1
        return found, new

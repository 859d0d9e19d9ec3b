"""`Reader`: the submissions that the input asks for, without those that have their results."""

from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator

import trio

from trio_jobs.commands.run.chunks import block_of, make_chunk
from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.input_file import InputFile
from trio_jobs.commands.run.records import BadLineError, Record, Submission, parse_record


class Reader:
    """Turns the lines of the input into submissions.

    Args:
        input_: The input.
        run: The run's id: the beginning of the keys.
        done: The lines that have their results.
        job_type: The type of all records; None if each line names its own.
        chunk: How many lines of the input go into one job; None for a job for each record.
        refuse: Called with the number of each line that asks for no job, and with the reason.

    Attributes:
        is_stopped: Whether `stop` was called.
        is_over: Whether the end of the input was reached.
    """

    def __init__(
        self,
        input_: InputFile,
        run: str,
        done: DoneLines,
        *,
        job_type: str | None,
        chunk: int | None,
        refuse: Callable[[int, str], None],
    ) -> None:
        self.is_stopped = False
        self.is_over = False
        self._input = input_
        self._run = run
        self._done = done
        self._type = job_type
        self._chunk = chunk
        self._refuse = refuse
        self._number = 0
        self._records: list[Record] = []  # of the chunk that is not full
        self._reading = trio.CancelScope()

    def stop(self) -> None:
        """End the input here, also in the middle of a read."""
        self.is_stopped = True
        self._reading.cancel()

    async def next(self) -> list[Submission]:
        """The next submissions; none at the end, or after `stop`.

        Raises:
            InputError: The input cannot be read.
        """
        submissions: list[Submission] = []
        self._reading = trio.CancelScope()  # each can be entered once
        if self.is_stopped:
            return []
        with self._reading:
            while not submissions and not self.is_over:
                lines = await self._input.read_lines()
                self.is_over = not lines
                submissions = list(self._submissions(lines))
        return [] if self.is_stopped else submissions

    def _submissions(self, lines: Iterable[bytes]) -> Iterator[Submission]:
        for line in lines:
            self._number = number = self._number + 1
            if number == 1:
                line = line.removeprefix(BOM_UTF8)  # as of config.toml
            if not line or line.isspace():
                continue
            is_done = self._done.is_done(number)
            if is_done and self._chunk is None:
                continue
            try:
                record = parse_record(line, number, self._type)
            except BadLineError as error:
                if not is_done:
                    self._refuse(number, str(error))
                continue
            if self._chunk is None:
                yield Submission((record,), record.type, record.payload, self._key(number))
            else:
                yield from self._add_to_chunk(record, self._chunk)
        if self.is_over:
            yield from self._end_chunk()

    def _add_to_chunk(self, record: Record, size: int) -> Iterator[Submission]:
        first = self._records[0] if self._records else record
        same_block = block_of(first.number, size) == block_of(record.number, size)
        if not same_block or first.type != record.type:
            yield from self._end_chunk()
        self._records.append(record)
        if record.number % size == 0:  # the last line of its block: do not wait for the next one
            yield from self._end_chunk()

    def _end_chunk(self) -> Iterator[Submission]:
        """The chunk, unless all of its records have their results.

        If a part of them has, all go into the chunk: it must be the one that the key names.
        """
        records, self._records = self._records, []
        if all(self._done.is_done(record.number) for record in records):
            return
        repeats = max(self._done.repeats(record.number) for record in records)
        yield make_chunk(records, self._prefix(repeats))

    def _key(self, number: int) -> str:
        return f"{self._prefix(self._done.repeats(number))}{number}"

    def _prefix(self, repeats: int) -> str:
        return f"{self._run}.{repeats}:" if repeats else f"{self._run}:"

"""`Run`: writes the answers of a run's jobs to its files, shows its progress, obeys signals."""

from collections.abc import Sequence

import msgspec
import trio

from trio_jobs.commands.run.chunks import split_answer
from trio_jobs.commands.run.done_lines import DoneLines
from trio_jobs.commands.run.input_file import InputError
from trio_jobs.commands.run.line_files import FLUSH_SECONDS, LineFile, LineFileError, LineSink
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.records import Record
from trio_jobs.commands.run.run_progress import RunProgress
from trio_jobs.commands.run.runner import JobEnd, Runner, RunnerError
from trio_jobs.commands.run.screen import Screen
from trio_jobs.commands.run.side_file import SideFile
from trio_jobs.commands.run.stop_signals import StopSignals

# Seconds that cancelled jobs get until the process leaves them.
_CANCEL_SECONDS = 2.0

_encode = msgspec.json.Encoder().encode


class Run:
    """One run, from its first line to its end.

    Args:
        runner: Runs the jobs.
        done: The lines that have results; each new one is counted there.
        results: Where the results go.
        failures: Where failures go beside the results; None for nowhere.
        side: The run's side file; None if it has none.
        signals: The signals that end the run.
        screen: The terminal.
        progress: The line that the user sees.

    Attributes:
        error: What has ended the run before its time; None if nothing has.
        is_whole: Whether the run has come to the end of the input.
    """

    def __init__(
        self,
        runner: Runner,
        done: DoneLines,
        results: LineSink,
        failures: LineFile | None,
        side: SideFile | None,
        *,
        signals: StopSignals,
        screen: Screen,
        progress: RunProgress,
    ) -> None:
        self.error: Exception | None = None
        self.is_whole = False
        self._runner = runner
        self._done = done
        self._results = results
        self._failures = failures
        self._side = side
        self._signals = signals
        self._screen = screen
        self._progress = progress
        self._leaving = trio.CancelScope()
        self._is_stopping = self._is_cancelling = False
        self._cancelled: list[
            int
        ] = []  # lines of cancelled jobs that the side file does not name yet

    async def run(self, reader: Reader) -> None:
        """Run all that the reader reads, until a signal or an error ends that.

        Cancellation:
            Leaves the files as they are.
        """
        self._reader = reader
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_often)
            nursery.start_soon(self._screen.show_often, self._progress_line)
            self._signals.connect(lambda: token.run_sync_soon(self._obey))
            try:
                with self._leaving:
                    await self._runner.run(reader, self.deliver)
                    self.is_whole = not self._is_stopping and self.error is None
            except (RunnerError, InputError) as error:
                self.error = self.error or error
            await self._flush()
            nursery.cancel_scope.cancel()

    def refuse(self, number: int, why: str) -> None:
        """Take a line of the input that asks for no job."""
        error = {"type": "Refused", "message": why}
        self._take(Record(number, "", b""), b'"outcome":"refused","error":%b}' % _encode(error))

    async def deliver(self, answers: Sequence[JobEnd]) -> None:
        """Take answers. After an error of a file they are dropped: a later run gets them again.

        Checkpoints:
            If the results go to a stream, which may be slow.
        """
        for answer in answers:
            records = answer.submission.records
            if self._is_cancelling and answer.outcome == "cancelled":
                self._cancelled += [record.number for record in records]
            elif answer.submission.is_chunk:
                for record, members, outcome in split_answer(answer.submission, answer.members):
                    self._take(record, members, outcome)
            else:
                self._take(records[0], answer.members, answer.outcome)
        if self._results.is_due:
            await self._flush()

    def _take(self, record: Record, members: bytes, outcome: str = "refused") -> None:
        number = record.number
        if self.error is not None or self._done.is_done(number):
            return  # its chunk was run again for other records, which had no results
        failed = outcome != "succeeded"
        self._done.count(failed=failed)
        self._results.add(b'{"line":%d,%b\n' % (number, members))
        if failed and self._failures is not None:
            # A line of the input that asks for no job has neither a type nor a payload.
            job = b',"type":%b,"payload":%b' % (_encode(record.type), record.payload)
            members = members[:-1] + (job if record.payload else b"")
            self._failures.add(b'{"line":%d,%b}\n' % (number, members))

    async def _flush(self) -> None:
        """Write the lines, and the numbers of the lines whose jobs were cancelled."""
        if self.error is not None and not isinstance(self.error, RunnerError | InputError):
            return
        try:
            # Before the results: a failure that is in the results must be in this file too.
            if self._failures is not None:
                await self._failures.flush()
            await self._results.flush()
            if self._side is not None:
                cancelled, self._cancelled = self._cancelled, []
                self._side.note_repeats(cancelled)
        except (OSError, LineFileError) as error:
            self.error = error
            self._stop()

    async def _flush_often(self) -> None:
        while True:
            await trio.sleep(FLUSH_SECONDS)
            await self._flush()

    def _progress_line(self) -> str:
        since = self._runner.failing_since
        return self._progress.line(gone_for=since and trio.current_time() - since)

    def _obey(self) -> None:
        """Do what the signals ask for."""
        if not self._is_stopping:
            self._stop()
            jobs = self._runner.in_flight
            if jobs and self._signals.level == 1:
                text = f"stopping: waiting for {jobs:,} jobs; Ctrl-C again to cancel them"
                self._screen.say(text)
        if self._signals.level == 2 and not self._is_cancelling:
            self._is_cancelling = True
            self._runner.cancel()
            self._leaving.deadline = trio.current_time() + _CANCEL_SECONDS

    def _stop(self) -> None:
        self._is_stopping = True
        self._reader.stop()
        self._runner.stop()

"""`ServedRunner`: runs the jobs on a server, by short requests to its pipe."""

from argparse import Namespace
from collections import deque
from typing import TYPE_CHECKING

import httpx
import trio

from trio_jobs.client import AsyncClient, RefusedError, ServerGoneError
from trio_jobs.client.pipe_lines import Line, LineAnswer
from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import MISTAKEN
from trio_jobs.commands.run.input_file import InputError
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.records import Submission
from trio_jobs.commands.run.runner import Deliver, JobEnd, RunnerError
from trio_jobs.commands.server_calls import http_arguments, url_errors
from trio_jobs.commands.server_option import find_server

if TYPE_CHECKING:
    from trio_jobs.client.slices import Slices

# Seconds. An operator may need some minutes to bring a server back.
RETRY_FOR = 300.0

_IN_FLIGHT = 200


class ServedRunner:
    """A `Runner` whose jobs run on a server.

    Args:
        options: The server's, ``--in-flight`` and ``--retry-for``.

    Raises:
        CommandError: The options name no server, or the HTTP client refuses the environment.
    """

    def __init__(self, options: Namespace) -> None:
        self._server = find_server(options)
        with http_arguments(self._server) as arguments:
            if self._server.socket is not None:
                arguments["transport"] = httpx.AsyncHTTPTransport(
                    uds=self._server.socket, verify=False
                )
            # A request waits for a connection for as long as it takes: others have them.
            self._http = httpx.AsyncClient(**arguments, timeout=httpx.Timeout(10.0, pool=None))
        try:
            self._client = AsyncClient(
                self._server.url,
                token=self._server.token or "",
                retry_for=RETRY_FOR if options.retry_for is None else options.retry_for,
                http=self._http,
            )
        except ValueError as error:
            raise CommandError(f"{self._server} is no URL: {error}", MISTAKEN) from None
        self._in_flight = options.in_flight or _IN_FLIGHT
        self._slices: Slices | None = None
        self._submissions: dict[int, Submission] = {}  # under way, by the first record's number

    @property
    def in_flight(self) -> int:
        """See `Runner`."""
        return 0 if self._slices is None else self._slices.outstanding

    @property
    def failing_since(self) -> float | None:
        """See `Runner`."""
        return None if self._slices is None else self._slices.failing_since

    async def run(self, reader: Reader, deliver: Deliver) -> None:
        """See `Runner`."""
        failure: Exception | None = None
        no_url = url_errors()
        failures: tuple[type[Exception], ...] = (RefusedError, ServerGoneError, InputError)
        async with self._http:
            self._slices = slices = self._client.slices(in_flight=self._in_flight)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slices.run, _Lines(reader, self._submissions))
                try:
                    while answers := await slices.take():
                        await deliver([self._answer(each) for each in answers])
                        slices.release(len(answers))
                except failures + no_url as error:
                    failure = error  # raised below, out of no group
                    nursery.cancel_scope.cancel()
        if isinstance(failure, RefusedError):
            raise RunnerError(f"{self._server} refuses: {failure}", status=MISTAKEN) from failure
        if isinstance(failure, ServerGoneError):
            raise RunnerError(f"{self._server} is gone: {failure}") from failure
        if isinstance(failure, no_url):
            text = f"{self._server} is no URL: {failure}"
            raise RunnerError(text, status=MISTAKEN) from failure
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """See `Runner`."""
        if self._slices is not None:
            self._slices.stop()

    def cancel(self) -> None:
        """See `Runner`."""
        if self._slices is not None:
            self._slices.cancel()

    def _answer(self, answer: LineAnswer) -> JobEnd:
        # The line's number comes first, and counts within one request.
        members = answer.text.strip().partition(b",")[2]
        return JobEnd(self._submissions.pop(answer.number), members, answer.result.outcome)


class _Lines:
    """The lines of a reader's submissions, for `Slices`.

    Args:
        reader: Makes the submissions.
        submissions: Gets each one by the number of its line.
    """

    def __init__(self, reader: Reader, submissions: dict[int, Submission]) -> None:
        self._reader = reader
        self._submissions = submissions
        self._ready: deque[Submission] = deque()

    def __aiter__(self) -> "_Lines":
        return self

    async def __anext__(self) -> Line:
        if not self._ready:
            self._ready.extend(await self._reader.next())
            if not self._ready:
                raise StopAsyncIteration
        submission = self._ready.popleft()
        number = submission.records[0].number
        self._submissions[number] = submission
        return Line(number, submission.to_json(), submission.key)

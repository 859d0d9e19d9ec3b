"""`Slice`: one request with a few lines, and further requests for those that it left unanswered."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio
import httpx

from trio_jobs.client.client_errors import RefusedError
from trio_jobs.client.patience import TRY_AGAIN, Patience
from trio_jobs.client.pipe_answer import BrokenOffError, PipeAnswer
from trio_jobs.client.pipe_lines import Line, LineAnswer, body_of, refused
from trio_jobs.client.problem_text import problem_text


class OpenPipe(Protocol):
    """Opens a request to the pipe, whose answer is read from the response."""

    def __call__(
        self, body: bytes, *, window: int | None
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Open it.

        Args:
            body: The lines.
            window: How many of them may be in the server at a time; None for what is usual there.
        """


class Slice:
    """A few lines, sent until each is answered.

    Args:
        lines: What to send.
        open_pipe: Opens a request.
        all_at_once: Whether all lines may be in the server at a time.
        patience: For the pauses before requests that repeat.
        on_answers: Is called with the answers to some of the lines, at least one; each comes once.
        on_failure: Is called when a request has left lines unanswered.
    """

    def __init__(
        self,
        lines: Iterable[Line],
        *,
        open_pipe: OpenPipe,
        all_at_once: bool,
        patience: Patience,
        on_answers: Callable[[list[LineAnswer]], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._left = {line.number: line for line in lines}
        self._open_pipe = open_pipe
        self._all_at_once = all_at_once
        self._patience = patience
        self._on_answers = on_answers
        self._on_failure = on_failure
        self._cancels = False
        self._is_put_off = False  # 503 as long as there are many pipes
        self._scope = anyio.CancelScope()  # of one request and the pause after it

    async def run(self) -> None:
        """Send the lines until each is answered.

        Raises:
            RefusedError: The server refuses the request itself.
            ServerGoneError: See there.
        """
        while self._left:
            with self._scope:
                why = await self._request()
                if self._left:
                    self._is_put_off = isinstance(why, httpx.Response)
                    self._on_failure()
                    await self._patience.pause(why)
            self._scope = anyio.CancelScope()

    def note_others(self) -> None:
        """Other lines were answered; so the server that has put these off is busy, not away."""
        if self._is_put_off:
            self._patience.note_progress()

    def cancel(self) -> None:
        """Close the connection, and send the lines again to have their jobs cancelled."""
        self._cancels = True
        self._all_at_once = True  # also behind jobs that do not end when they are cancelled
        self._scope.cancel()

    async def _request(self) -> httpx.Response | Exception:
        """Send the lines once; why some may be left."""
        lines = list(self._left.values())
        body = body_of(lines, cancel=self._cancels)
        window = len(lines) if self._all_at_once else None
        try:
            async with self._open_pipe(body, window=window) as response:
                if response.status_code == 200:
                    return await self._read(response, PipeAnswer(lines, cancel=self._cancels))
                if response.status_code in TRY_AGAIN:
                    return response
                await response.aread()
                problem = RefusedError(response.status_code, problem_text(response))
                if response.status_code != 413 or len(lines) > 1:
                    raise problem
                self._note([refused(lines[0], problem.detail)])
                return problem
        except httpx.UnsupportedProtocol:
            raise  # another try would fail as well
        except httpx.RequestError as error:  # also an answer that cannot be decompressed
            return error

    async def _read(self, response: httpx.Response, answer: PipeAnswer) -> BrokenOffError:
        with anyio.CancelScope() as reading:
            async for piece in response.aiter_bytes():
                heard = answer.feed(piece)
                if answer.blank_lines > 1:
                    self._patience.note_progress()
                if heard:
                    self._note(heard)
                if answer.garbled is not None:
                    # A cancelled read closes httpx's generators, which a `break` would leave open.
                    reading.cancel()
        return answer.broken_off()

    def _note(self, answers: list[LineAnswer]) -> None:
        self._patience.note_progress()
        for answer in answers:
            del self._left[answer.number]
        self._on_answers(answers)

"""A server that answers by a script, and commands in this process."""

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from threading import Thread

from trio_jobs.cli import COMMANDS, make_parser
from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.complaints import complain

JOB_ID = "01a2287a-228d-7e82-a444-58d744ff24ef"
TIME = "2026-11-29T18:00:00.000001Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server says.

    Attributes:
        status: Of HTTP; 0 breaks the connection off before an answer.
        body: All of it.
        content_type: What it says that it is.
        headers: Further ones.
    """

    body: bytes = b"{}"
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the server was asked."""

    method: str
    path: str
    headers: Message
    body: bytes


def problem(status: int, detail: str, **headers: str) -> Answer:
    """A refusal; a header's name has underscores."""
    return Answer(
        status=status,
        body=b'{"detail":"%s"}' % detail.encode(),
        content_type="application/problem+json",
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


def job(members: str = "", status: str = "pending", job_type: str = "email") -> bytes:
    """A job's JSON, with further members."""
    text = f'{{"id":"{JOB_ID}","type":"{job_type}","status":"{status}","created_at":"{TIME}"'
    return f"{text}{members and ','}{members}}}".encode()


def ended(members: str, job_type: str = "email") -> bytes:
    """The JSON of a job that has ended."""
    return job(f'"completed_at":"{TIME}",{members}', "completed", job_type)


class Script:
    """Answers one after the other, each in a connection of its own.

    Args:
        answers: The answers.
        tls: With a certificate; None for none.

    Attributes:
        url: Where.
        requests: What it was asked so far.
    """

    def __init__(self, answers: Sequence[Answer], tls: ssl.SSLContext | None) -> None:
        self._answers = list(answers)
        self.requests: list[Request] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if self.raw_requestline and self.parse_request():
                    length = int(self.headers.get("Content-Length", 0))
                    script._answer(self, self.rfile.read(length))
                self.close_connection = True

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        scheme, host = ("http", "127.0.0.1") if tls is None else ("https", "localhost")
        self.url = f"{scheme}://{host}:{self._server.server_port}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @property
    def left(self) -> int:
        """How many answers nobody has asked for."""
        return len(self._answers)

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        request = Request(
            method=handler.command, path=handler.path, headers=handler.headers, body=body
        )
        self.requests.append(request)
        answer = self._answers.pop(0)
        if not answer.status:
            return
        lines = [f"HTTP/1.1 {answer.status} Says the script"]
        headers = {"Content-Type": answer.content_type, "Connection": "close", **answer.headers}
        lines += (f"{name}: {text}" for name, text in headers.items())
        handler.wfile.write("\r\n".join([*lines, "", ""]).encode() + answer.body)


@contextmanager
def scripted_server(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    """A server that gives these answers."""
    script = Script(answers, tls)
    thread = Thread(target=script._server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        script._server.shutdown()
        thread.join()
        script._server.server_close()


def call(name: str, *arguments: str) -> int:
    """Run a command as `trio_jobs.cli.run` does, but with this process's signals; its status."""
    options = make_parser(complain, complete=True).parse_args([name, *arguments])
    module = import_module(f"trio_jobs.commands.{COMMANDS[name][0]}")
    try:
        status: int = module.run(options)
    except CommandError as error:
        complain(str(error))
        return error.status
    return status

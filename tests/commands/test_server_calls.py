"""What a command makes of a server's answers, of none, and of those of something else."""

import ssl
import sys

import pytest

from tests.commands.support import (
    JOB_ID,
    Answer,
    call,
    ended,
    job,
    problem,
    scripted_server,
)
from tests.server.test_tls import CERTIFICATE, KEY
from trio_jobs.commands import second_tries

# Each orders a terminal to do something, or turns the text around.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\n"
IN_JSON = HOSTILE.replace("\x1b", "\\u001b").replace("\x07", "\\u0007")
IN_JSON = IN_JSON.replace("\r", "\\r").replace("\n", "\\n")


class Clock:
    """The time of the pauses, which passes by them alone.

    Attributes:
        pauses: Those so far, in seconds.
    """

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return sum(self.pauses)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in place of the real one."""
    clock = Clock()
    monkeypatch.setattr(second_tries, "time", clock)
    return clock


def one_line(text: str) -> str:
    """The only line of the complaints, without the command's name."""
    [line] = text.splitlines()
    assert line.startswith("trio-jobs: ")
    assert line.isprintable()
    return line.removeprefix("trio-jobs: ")


@pytest.mark.parametrize(
    ("answer", "status", "complaint"),
    [
        (Answer(body=b"<p>", content_type="text/html"), 1, "it is no trio-jobs server"),
        (Answer(body=b"<p>", content_type="text/html", status=404), 1, "status 404 and text/html"),
        (Answer(body=b"no JSON"), 1, "the answer is no job"),
        (Answer(body=b"[]"), 1, "the answer is no job"),
        (Answer(body=b"\xff"), 1, "the answer is no job"),
        (Answer(status=301, headers={"Location": "https://a"}), 2, "leads to https://a"),
        (Answer(body=b"", status=502, content_type="text/html"), 1, "answers with status 502"),
        (Answer(body=b"", status=503, content_type="text/html"), 75, "answers with status 503"),
        (problem(401, "a token is needed"), 2, "a token is needed"),
        (problem(403, "this needs the role control"), 2, "this needs the role control"),
        (problem(404, "no such path"), 2, "no such path"),
        (problem(429, "no room"), 75, "no room"),
        (problem(500, "internal error"), 1, "internal error"),
        (problem(507, "the disk is full"), 75, "the disk is full"),
        (problem(422, "the key was used\\u001b[31m\\n"), 2, "the key was used [31m "),
        (problem(400, "x" * 10_000), 2, "x" * 2_000),
    ],
)
def test_each_refusal_is_one_line_with_its_status(
    answer: Answer, status: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(answer) as server:
        assert call("submit", "email", "--url", server.url) == status

    captured = capsys.readouterr()
    assert captured.out == ""
    assert complaint in one_line(captured.err)


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(Answer(status=0), problem(504, "unknown"), Answer(body=job())) as server:
        assert call("submit", "email", "1", "--url", server.url) == 0

    keys = {request.headers["Idempotency-Key"] for request in server.requests}
    assert len(server.requests) == 3
    assert len(keys) == 1
    assert capsys.readouterr().out == f"{JOB_ID}\n"


def test_submit_waits_for_room_as_long_as_the_server_says_and_only_if_asked_to(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    full = [problem(429, "no room", retry_after="2"), problem(503, "paused", retry_after="30")]
    with scripted_server(*full, Answer(body=job())) as server:
        assert call("submit", "email", "--wait-for-room", "--key=k", "--url", server.url) == 0

    assert clock.pauses == [2, 5]
    assert [request.headers["Idempotency-Key"] for request in server.requests] == ["k"] * 3


def test_wait_outlasts_a_restart_and_gives_up_after_a_minute_without_the_server(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    restart = [Answer(status=0), Answer(status=502, content_type="text/html")]
    with scripted_server(
        Answer(body=job(), headers={"Preference-Applied": "wait=30"}),
        *restart,
        Answer(body=ended('"outcome":"succeeded"')),
    ) as server:
        assert call("wait", JOB_ID, "--url", server.url) == 0
    assert sum(clock.pauses) < 1

    capsys.readouterr()
    with scripted_server(Answer(body=job()), *[Answer(status=0)] * 100) as server:
        assert call("wait", JOB_ID, "--timeout=1h", "--url", server.url) == 1
    assert server.left > 0
    assert 60 <= sum(clock.pauses) < 70
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("; trying again for 60 s")
    assert last.endswith("broke off: Server disconnected without sending a response.")


def test_a_server_that_never_was_there_is_not_waited_for(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(Answer(status=0)) as server:  # it may be one of TLS
        assert call("wait", JOB_ID, "--url", server.url) == 1
    assert "broke off" in one_line(capsys.readouterr().err)
    for name in ("submit", "status", "wait", "list", "cancel", "rerun", "tail"):
        arguments = [] if name in ("status", "list", "tail") else [JOB_ID]
        assert call(name, *arguments, "--url=http://127.0.0.1:1") == 1
        assert "cannot be reached: Connection refused" in one_line(capsys.readouterr().err)
    assert clock.pauses == []


def test_time_of_a_wait_ends_while_the_server_is_gone(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trio_jobs.commands.waiting.time", clock)
    monkeypatch.setattr("trio_jobs.commands.wait_command.time", clock)
    # The server lets nobody wait.
    pending = Answer(body=job(), headers={"Preference-Applied": "wait=0", "Retry-After": "2"})
    with scripted_server(pending, *[Answer(status=0)] * 100) as server:
        assert call("wait", JOB_ID, "--timeout=7", "--url", server.url) == 1
    assert clock.pauses[0] == 2
    assert sum(clock.pauses) == 7

    clock.pauses.clear()
    with scripted_server(*[Answer(body=job(), headers={"Retry-After": "3"})] * 4) as server:
        assert call("wait", JOB_ID, "--timeout=7", "--url", server.url) == 4
    assert clock.pauses == [3, 3, 1]


@pytest.mark.parametrize("name", ["status", "list", "tail"])
def test_without_an_http_client_one_line_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)

    assert call(name) == 2
    assert one_line(capsys.readouterr().err).endswith("pip install 'trio-jobs[client]'")


@pytest.mark.parametrize(
    "variable",
    [
        ("ALL_PROXY", "socks9://proxy"),
        ("ALL_PROXY", "http://proxy:port"),
        ("ALL_PROXY", "http://\udcff:80"),
        ("NO_PROXY", "[::"),
        ("SSL_CERT_FILE", "/nowhere"),
    ],
)
def test_environment_that_the_http_client_refuses_is_one_line(
    variable: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(*variable)

    assert call("status", "--url=https://127.0.0.1:1") == 2
    assert "refuses its variables" in one_line(capsys.readouterr().err)


def test_a_certificate_is_checked_and_plain_http_to_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    with scripted_server(Answer(body=b'{"status":"ready"}'), tls=context) as server:
        assert call("status", "--url", server.url) == 1
        assert "CERTIFICATE_VERIFY_FAILED" in one_line(capsys.readouterr().err)
        assert call("status", "--url", server.url.replace("https", "http")) == 1
        assert "broke off" in one_line(capsys.readouterr().err)
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert call("status", "--url", server.url) == 0


@pytest.mark.parametrize("url", ["http://[::1", "http://a..b", f"http://{'a' * 70}.example"])
def test_url_that_leads_to_no_host_is_one_line(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("status", "--url", url) == 2
    assert "is no URL" in one_line(capsys.readouterr().err)


def test_wait_ends_when_its_time_is_over_and_tells_of_each_job(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = JOB_ID.replace("0", "1")
    answers = [
        Answer(body=job(status="processing")),
        problem(404, f"no job {other}"),
        Answer(body=ended('"outcome":"failed","error":{"type":"ValueError","message":"no"}')),
    ]
    with scripted_server(*answers) as server:
        assert call("wait", JOB_ID, other, JOB_ID, "--timeout=0", "--url", server.url) == 4

    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err.splitlines() == [
        f"trio-jobs: job {JOB_ID} has not ended in time",
        f"trio-jobs: no job {other}",
        f"trio-jobs: job {JOB_ID} failed: ValueError: no",
    ]
    assert [request.headers["Prefer"] for request in server.requests] == ["wait=0"] * 3


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize(
    ("arguments", "answers"),
    [
        (["list"], [Answer(body=b"[%s]")]),
        (["status", JOB_ID], [Answer(body=b"%s")]),
        (["status"], [Answer(body=b'{"status":"%b","paused":["%b"]}')]),
        (["wait", JOB_ID], [Answer(body=b"%s")]),
        (["submit", "email", "--wait"], [Answer(body=b"%s"), Answer(body=b"%s")]),
        (
            ["tail"],
            [
                Answer(
                    body=b'id: a-1\nevent: ended\ndata: {"jobs":[%s],"missed":1}\n\n',
                    content_type="text/event-stream",
                ),
                problem(401, f"over {IN_JSON}"),
            ],
        ),
    ],
    ids=["list", "status", "status of the pool", "wait", "submit", "tail"],
)
def test_no_byte_of_a_server_is_an_order_to_the_terminal(
    arguments: list[str],
    answers: list[Answer],
    is_terminal: bool,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("list", "status", "tail"):
        monkeypatch.setattr(f"trio_jobs.commands.{name}_command.is_terminal", lambda: is_terminal)
    # `job` is given the text as JSON has it; C1 and direction marks may stand in JSON as they are.
    text = ended(
        f'"outcome":"failed","error":{{"type":"{IN_JSON}","message":"{IN_JSON}"}}'
        f',"result":"{IN_JSON}","duration":1.5',
        IN_JSON,
    )
    filled = [
        Answer(
            status=each.status,
            body=each.body.replace(b"%s", text).replace(b"%b", IN_JSON.encode()),
            content_type=each.content_type,
        )
        for each in answers
    ]
    with scripted_server(*filled) as server:
        call(*arguments, "--url", server.url)

    captured = capsys.readouterr()
    assert captured.out + captured.err
    for line in (captured.out + captured.err).splitlines():
        assert line.isprintable()
    assert "owned" in captured.out + captured.err

"""`tail` and `top`: events in pieces, over broken connections and restarts."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands.support import Answer, call, ended, problem, scripted_server
from trio_jobs.commands.event_feed import Event, read_events
from trio_jobs.commands.top_command import Picture, PoolState, TypeNumbers, read_state

BODY = (
    b"retry: 2000\nid: boot-1\n\n:\n\nevent: ended\nid: boot-2\n"
    b'data: {"a":"\xe2\x80\xa8 \xc2\x85"}\n\nevent: bye\r\ndata: {}\r\n\r\nevent: cut'
)


@given(st.lists(st.integers(0, len(BODY))))
def test_events_are_the_same_wherever_the_body_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]

    events = list(read_events(BODY[a:b] for a, b in pairwise(edges)))

    assert events == [
        Event(name="", data=b"", id="boot-1"),
        Event(name="", data=b"", id="boot-1"),  # the comment
        Event(name="ended", data=b'{"a":"\xe2\x80\xa8 \xc2\x85"}', id="boot-2"),
        Event(name="bye", data=b"{}", id="boot-2"),
    ]


def events(body: bytes) -> Answer:
    return Answer(body=body, content_type="text/event-stream; charset=utf-8")


def test_tail_goes_on_after_the_last_event_and_says_what_it_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trio_jobs.commands.second_tries.time.sleep", lambda _: None)
    one = ended('"outcome":"failed"')
    answers = [
        events(b"retry: 2000\nid: b-7\n\n"),
        Answer(status=0),
        events(b'event: ended\nid: b-8\ndata: {"missed":2,"jobs":[%s]}\n\n' % one),
        events(b"event: reset\ndata: {}\n\nevent: bye\ndata: {}\n\n"),
        problem(401, "the token is wrong"),
    ]
    with scripted_server(*answers) as server:
        assert call("tail", "--failed", "--type=email", "--url", server.url) == 2

    assert [request.headers["Last-Event-ID"] for request in server.requests] == [
        None,
        "b-7",
        "b-7",
        "b-8",
        "b-8",
    ]
    query = "/events?state=0&type=email&outcome=failed&outcome=timed_out"
    assert {request.path for request in server.requests} == {query}
    captured = capsys.readouterr()
    assert captured.out == f"{one.decode()}\n"
    complaints = [line.partition(": ")[2] for line in captured.err.splitlines()]
    assert complaints == [
        # And not once more for the broken connection.
        f"{server.url} has ended its answer; trying again for 60 s",
        "2 more jobs have ended, and are not shown",
        f"{server.url} has ended its answer; trying again for 60 s",
        "the server was started anew: jobs that ended meanwhile are not shown",
        f"{server.url} has ended its answer; trying again for 60 s",
        "the token is wrong",
    ]


@pytest.mark.parametrize(
    "event",
    [b"event: ended\ndata: {}\n\n", b'event: ended\ndata: {"jobs":1}\n\n'],
)
def test_an_event_that_is_none_of_ours_is_one_line(
    event: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(events(event)) as server:
        assert call("tail", "--url", server.url) == 1

    assert len(capsys.readouterr().err.splitlines()) == 1


def state(second: int, types: dict[str, TypeNumbers], boot: str = "a") -> PoolState:
    text = json.dumps({"status": "ready", "now": f"2026-11-29T18:00:{second:02}Z", "boot": boot})
    read = read_state(text.encode())
    return msgspec.structs.replace(read, workers=4, busy=3, types=types or None)


def numbers(done: int, failed: int = 0) -> TypeNumbers:
    outcomes = {"succeeded": done, "failed": failed, "cancelled": 1}
    return TypeNumbers(processing=done, outcomes=outcomes, run_p50_seconds=0.0123)


def test_top_shows_rates_between_two_states_and_none_over_a_restart() -> None:
    picture = Picture("here")
    picture.take(state(10, {"email": numbers(5)}))
    picture.take(state(12, {"email": numbers(8, failed=1), "report": numbers(10)}))
    shown = picture.lines(columns=80, rows=24)
    picture.take(state(13, {}))  # without numbers of types: those before stay
    later = picture.lines(columns=80, rows=24)
    picture.take(state(14, {"email": numbers(1)}, boot="b"))
    restarted = picture.lines(columns=80, rows=24)

    assert shown == [
        "here   ready   intake    18:00:12",
        "workers 3 of 4   buffer 0 of 0   pending 0   waiting 0   held 0   done/s 7.5",
        "",
        "TYPE    RUNNING  PENDING  DONE/S  FAILED      P50  P95",
        "report       10        0     5.5       0  12.3 ms    -",
        "email         8        0     2.0       1  12.3 ms    -",
    ]
    assert later[3:] == shown[3:]
    assert restarted[-1].split()[:5] == ["email", "1", "0", "0.0", "0"]


def test_top_keeps_to_the_size_of_the_terminal_and_shows_trouble() -> None:
    picture = Picture("here")
    picture.take(state(10, {f"type{number}": numbers(1) for number in range(50)}))
    picture.trouble = "the server is gone; waiting"

    lines = picture.lines(columns=20, rows=10)

    assert len(lines) == 9
    assert max(map(len, lines)) <= 20
    assert lines[1] == "the server is gone;…"


def test_top_refuses_what_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("top") == 2
    assert "top needs a terminal" in capsys.readouterr().err

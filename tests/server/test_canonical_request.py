"""Requests of canonical form: h11 reads them to the same, and everything else is h11's."""

import random
from dataclasses import replace
from pathlib import Path

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proof.share import share_of
from tests.support import HttpSettings
from trio_jobs.server import canonical_request
from trio_jobs.server.canonical_answer import answer_bytes
from trio_jobs.server.canonical_request import CanonicalParser, CanonicalRequest
from trio_jobs.server.request_head import HeaderList, parse_head

from .serving import chunked, get, post

SETTINGS = HttpSettings()
LONGEST_HEAD = SETTINGS.max_header_bytes

# What common clients send.
COMMON = [
    b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nAccept: */*\r\n\r\nabcd",
    b"GET /jobs/a-b HTTP/1.1\r\nhost:a\r\nX-Y:  b c\t\r\nUser-Agent: a/1 (b; c)\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: [::1]:1\r\nContent-Length: 04\r\nE:\r\nx-e: \xfc\r\n\r\nabcd",
    b"POST / HTTP/1.1\r\nConnection: Keep-Alive\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
]
# What an edit puts into one of them.
PIECES = [
    *[b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x0b", b"\x0c", b"\x1f", b"\x7f"],
    *[b"\x85", b"\xa0", b"\xff", b"0", b"_", b"(", b'"', b"{}", b"%", b"?", b"#", b"*", b"//"],
    *[b" x", b"\r\n x", b"\r\n\r\n", b"HTTP/1.0", b"http/1.1", b"+4", b"-4", b"4, 4", b"4_4"],
    *[b"HEAD", b"CONNECT", b"post", b"http://b/", b"chunked", b", close", b"GET / HTTP/1.1\r\n"],
    *[b"Host: b\r\n", b"Content-Length: 4\r\n", b"Content-Length: 5\r\n", b"CONTENT-LENGTH:0\r\n"],
    *[b"Content-Length : 4\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:\r\n"],
    *[b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: Keep-Alive\r\n"],
    *[b"Connection: keep-alive, close\r\n", b"Upgrade: h2c\r\n", b"TE: trailers\r\n"],
]


def edited(chance: random.Random) -> bytes:
    """A common request with some bytes put in, written over or taken out."""
    data = bytearray(chance.choice(COMMON))
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        start = chance.randrange(len(data) + 1)
        piece = chance.choice(PIECES)
        end = start + chance.choice([0, 0, len(piece), chance.randrange(4)])
        data[start:end] = piece if chance.random() < 0.8 else b""
    return bytes(data)


parse = CanonicalParser(SETTINGS).parse


def check_by_h11(data: bytes, request: CanonicalRequest) -> None:
    """Let h11 and the ordinary way read the same bytes; everything that they find is equal."""
    whole = data.ljust(request.end, b"x")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
    connection.receive_data(whole)
    head, body = connection.next_event(), b""
    while type(event := connection.next_event()) is h11.Data:
        body += event.data

    assert type(head) is h11.Request, data
    assert (head.method, head.target) == (request.method, request.target), data
    assert list(head.headers) == list(request.headers), data
    assert body == whole[request.body_start : request.end], data
    assert type(event) is h11.EndOfMessage, data
    assert connection.their_state is h11.DONE, data
    assert connection.trailing_data == (b"", False), data

    scope, length = parse_head(head, max_bytes=LONGEST_HEAD)
    assert (scope["path"].encode(), scope["query_string"]) == (request.target, b""), data
    assert scope["headers"] == list(request.headers), data
    assert length == request.end - request.body_start, data


@pytest.mark.parametrize(
    "edits",
    [20_000, pytest.param(int(share_of(2_000_000)), marks=pytest.mark.soak)],
    ids=["some", "many"],
)
def test_h11_reads_what_is_accepted_to_the_same_request_and_waits_for_the_next(edits: int) -> None:
    chance = random.Random(edits)  # noqa: S311 - no secret
    accepted = 0
    for _ in range(edits):
        data = edited(chance)
        if (request := parse(data)) is not None:
            check_by_h11(data, request)
            accepted += 1

    # Neither did the edits break nearly all of the requests, nor were nearly all of them harmless.
    assert 0.2 < accepted / edits < 0.8


@given(st.sampled_from(COMMON), st.integers(0, 300), st.lists(st.sampled_from(b"\r\n \t:a\0")))
def test_h11_reads_what_is_accepted_of_any_bytes(good: bytes, start: int, other: list[int]) -> None:
    data = good[:start] + bytes(other) + good[start + len(other) :]
    if (request := parse(data)) is not None:
        check_by_h11(data, request)


@pytest.mark.parametrize("data", COMMON)
def test_common_requests_are_accepted_from_the_end_of_their_head_on(data: bytes) -> None:
    whole = parse(data)
    assert whole is not None
    assert whole.end == len(data)

    for length in range(len(data)):
        expected = None if length < whole.body_start else whole
        assert parse(data[:length]) == expected


OUTSIDE = {
    "another method": get("/jobs", method="DELETE"),
    "HEAD": get("/jobs", method="HEAD"),
    "CONNECT": get("/jobs", method="CONNECT"),
    "a method in lower case": get("/jobs", method="post"),
    "HTTP/1.0": get("/jobs", version="1.0"),
    "HTTP/1.2": get("/jobs", version="1.2"),
    "a query": get("/jobs?status=pending"),
    "an empty query": get("/jobs?"),
    "an escape": get("/job%73"),
    "a fragment": get("/jobs#a"),
    "an absolute target": get("http://localhost/jobs"),
    "no path": get("*"),
    "no host": b"GET /jobs HTTP/1.1\r\nAccept: */*\r\n\r\n",
    "no header": b"GET /jobs HTTP/1.1\r\n\r\n",
    "two hosts": get("/jobs", "Host: localhost"),
    "a header twice": get("/jobs", "Idempotency-Key: a", "idempotency-key: a"),
    "a chunked body": chunked(b"{}", path="/jobs"),
    "a length and chunks": post(b"0\r\n\r\n", "/jobs", "Transfer-Encoding: chunked"),
    "Expect": post(b"{}", "/jobs", "Expect: 100-continue"),
    "Upgrade": get("/jobs", "Upgrade: h2c"),
    "TE": get("/jobs", "TE: trailers"),
    "Trailer": get("/jobs", "Trailer: Expires"),
    "Connection: close": get("/jobs", "Connection: close"),
    "Connection: upgrade": get("/jobs", "Connection: keep-alive, Upgrade"),
    "an empty Connection": get("/jobs", "Connection:"),
    "two lengths": post(b"{}", "/jobs", "Content-Length: 2"),
    "a list of lengths": get("/jobs", "Content-Length: 2, 2", method="POST") + b"{}",
    "a signed length": get("/jobs", "Content-Length: +2", method="POST") + b"{}",
    "an empty length": get("/jobs", "Content-Length:", method="POST"),
    "a length of ten digits": get("/jobs", "Content-Length: 0000000002", method="POST") + b"{}",
    "a folded line": get("/jobs", "X-A: b\r\n c"),
    "a blank before the colon": get("/jobs", "X-A : b"),
    "no colon": get("/jobs", "X-A"),
    "an empty name": get("/jobs", ": b"),
    "a name that is no token": get("/jobs", "X(A): b"),
    "a control character": get("/jobs", "X-A: b\x01"),
    "a delete character": get("/jobs", "X-A: b\x7f"),
    "line feeds alone": get("/jobs").replace(b"\r\n", b"\n"),
    "one line feed alone": get("/jobs", "X-A: b\nX-C: d"),
    "a line feed alone at its end": get("/jobs")[:-2] + b"\n",
    "a carriage return alone": get("/jobs", "X-A: b\rc"),
    "an empty line before it": b"\r\n" + get("/jobs"),
    "two blanks": get("/jobs").replace(b" ", b"  ", 1),
    "a request behind it": get("/jobs") + get("/jobs"),
    "a byte behind it": post(b"{}", "/jobs") + b"\n",
    "half a head": get("/jobs")[:-1],
    "no byte": b"",
}


@pytest.mark.parametrize("data", OUTSIDE.values(), ids=OUTSIDE)
def test_a_request_outside_the_canonical_form_is_not_accepted(data: bytes) -> None:
    assert parse(data) is None


@pytest.mark.parametrize("more", [b"", b"X: %b\r\n" % (b"x" * 600)])
def test_a_repeated_header_block_gives_each_request_its_own_line_and_body(more: bytes) -> None:
    """A short block is kept with what was parsed from it, a long one is not; each is checked."""
    block = b"Host: localhost\r\n%bContent-Length: 2\r\n\r\n" % more
    for line in (b"POST /jobs HTTP/1.1\r\n", b"GET /jobs/an-id HTTP/1.1\r\n") * 2:
        for body in (b"", b"{", b"{}"):
            request = parse(line + block + body)
            assert request is not None
            check_by_h11(line + block + body, request)
        assert parse(line + block + b"{}{") is None
        assert parse(line + block[:-2]) is None


def test_a_head_that_is_accepted_here_is_not_too_long_for_the_ordinary_way() -> None:
    for names in (1, 10, 100):
        data = get("/jobs", *[f"a{n}:b" for n in range(names)])
        shortest = next(
            limit
            for limit in range(len(data) + names + 2)
            if CanonicalParser(replace(SETTINGS, max_header_bytes=limit)).parse(data) is not None
        )
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        head = connection.next_event()
        assert isinstance(head, h11.Request)
        parse_head(head, max_bytes=shortest)


@pytest.mark.parametrize(("longest", "accepted"), [(10, 10), (65_536, 65_536), (100_000, 65_536)])
def test_only_a_short_body_within_the_limit_is_accepted(longest: int, accepted: int) -> None:
    parser = CanonicalParser(replace(SETTINGS, max_body_bytes=longest))

    assert parser.parse(post(b"x" * accepted, "/jobs")) is not None
    assert parser.parse(post(b"x" * (accepted + 1), "/jobs")) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET /jobs HTTP/1.1\r\nHost:" + b" " * 65_000 + b"\1",
        b"GET /jobs HTTP/1.1\r\nHost:" + b"a " * 32_000 + b"\1",
        b"GET /jobs HTTP/1.1\r\n" + b"a:\r\n" * 16_000,
        b"GET /" + b"a" * 65_000,
    ],
    ids=["blanks", "words", "lines", "path"],
)
def test_a_head_that_would_take_long_is_not_accepted(data: bytes) -> None:
    """With a quantifier that gives characters back, the first would take minutes."""
    for _ in range(20):
        assert parse(data) is None


def test_the_parser_is_one_module_that_a_reader_checks_in_one_sitting() -> None:
    assert len(Path(canonical_request.__file__).read_text().splitlines()) <= 160


# --- the answer

HEADERS: HeaderList = [(b"Content-Type", b"application/json"), (b"content-length", b"2")]


def by_h11(status: int, headers: HeaderList, body: bytes) -> bytes:
    """The same answer, written by h11."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(COMMON[0])
    while type(connection.next_event()) is not h11.EndOfMessage:
        pass
    reason = {200: b"OK", 201: b"Created", 413: b"Content Too Large"}[status]
    events = [
        h11.Response(status_code=status, headers=headers, reason=reason),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    return b"".join([connection.send(event) or b"" for event in events])


@pytest.mark.parametrize("status", [200, 201, 413])
@pytest.mark.parametrize(
    "more",
    [
        [],
        [(b"Location", b"/jobs/a")],
        [(b"X-Empty", b""), (b"x-latin", b"\xfc a\tb")],
        [(b"date", b"Sun, 29 Nov 2026 02:00:00 GMT"), (b"connection", b"close")],
    ],
)
def test_an_answer_has_the_bytes_that_h11_writes(status: int, more: HeaderList) -> None:
    headers = [*HEADERS, *more]

    assert answer_bytes(status, headers, b"{}") == by_h11(status, headers, b"{}")


@given(st.binary(max_size=4), st.binary(max_size=6))
def test_a_header_that_h11_would_not_send_is_not_sent(name: bytes, value: bytes) -> None:
    headers = [*HEADERS, (b"X-" + name, value)]
    try:
        sent = answer_bytes(200, headers, b"{}")
    except ValueError:
        return

    assert sent == by_h11(200, headers, b"{}")


@pytest.mark.parametrize(
    "header",
    [
        (b"X-A", b"b\r\nX-C: d"),
        (b"X-A", b"b\r\n\r\nHTTP/1.1 200 OK"),
        (b"X-A", b"b\nc"),
        (b"X-A", b" b"),
        (b"X-A", b"b "),
        (b"X-A", b"b\0"),
        (b"X A", b"b"),
        (b"", b"b"),
        (b"X-A: b\r\nX-C", b"d"),
    ],
)
def test_no_header_ends_the_head_of_an_answer(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="illegal header"):
        answer_bytes(200, [*HEADERS, header], b"{}")

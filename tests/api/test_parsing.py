"""A key that stands twice in a submission is a mistake, as one that is misspelt is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api.support import Api, accept, assert_problem, handlers_of
from tests.support import Problem
from trio_jobs.api.submission_json import parse_submission
from trio_jobs.pool.wall_clock import utc_now

HANDLERS = handlers_of({"default": accept})
REPEATED = "$: object contains a field more than once"

TWICE = {
    "type": b'{"type":"a","type":"b"}',
    "type, empty": b'{"type":"","type":"b"}',
    "type, the same": b'{"type":"a","type":"a"}',
    "type, written otherwise": b'{"type":"a","t\\u0079pe":"b"}',
    "type, with a payload": b'{"type":"","type":"b","payload":1}',
    "type, around the payload": b'{"type":"a","payload":1,"type":"b"}',
    "type, before a key": b'{"type":"a","type":"b","payload":{"type":"c"}}',
    "payload": b'{"type":"a","payload":1,"payload":2}',
    "payload, the same": b'{"type":"a","payload":1,"payload":1}',
    "payload, beginning alike": b'{"type":"a","payload":12,"payload":1}',
    "payload, at the front": b'{"payload":0,"type":"a","payload":1}',
    "payload, null": b'{"type":"a","payload":null,"payload":null}',
    "both": b'{"type":"a","payload":1,"payload":2,"type":"b"}',
    "delay": b'{"type":"a","delay":1,"delay":1}',
    "delay, at the front": b'{"delay":{"type":[]},"type":"a","delay":0}',
    "delay, around the payload": b'{"type":"a","delay":1,"payload":2,"delay":3}',
    "run_at": b'{"type":"a","run_at":"2026-12-01T08:00:00Z","run_at":"2026-12-01T08:00:00Z"}',
    "run_at, written otherwise": b'{"type":"","run_at":1,"r\\u0075n_at":"2026-12-01T08:00:00Z"}',
    "type, beside a delay": b'{"type":"a","delay":1.5e1,"type":"b"}',
    "spread out": b' { "type" : "a" ,\n\t"type" : "b" } ',
}

ONCE = {
    "compact": b'{"type":"a"}',
    "with blanks": b' { "type" : "a" ,\n "payload" : 1 } \n',
    "the other way round": b'{"payload":{"type":"b","payload":1},"type":"a"}',
    "in the payload": b'{"type":"a","payload":{"type":1,"type":2}}',
    "quoted in the payload": b'{"type":"a","payload":"\\",\\"type\\":\\"b\\""}',
    "quoted in the type": b'{"type":"\\",\\"type\\":\\"b","payload":"type"}',
    "written otherwise": b'{"t\\u0079pe":"a","payl\\u006fad":["payload"]}',
    "with a type beyond ASCII": '{"type":"grüße-grüße-grüße-grüße-grüße","payload":1}'.encode(),
    "with an escaped type": b'{"type":"\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9\\\\\\"","payload":"a"}',
    "with a delay": b'{"delay":1.5e+1,"type":"a","payload":{"delay":1}}',
    "with a date": b'{"type":"a" , "run_at" : "2026-12-01T08:00:0\\u0030Z" }',
    "with a date, and a payload": b'{"payload":"at","type":"a","run_at":"2026-12-01T08:00:00Z"}',
    "indented": json.dumps({"type": "a", "payload": {"b": [1, 2]}}, indent=8).encode(),
}


@pytest.mark.parametrize("body", TWICE.values(), ids=TWICE.keys())
async def test_key_that_stands_twice_is_refused_on_every_route(body: bytes) -> None:
    api = Api()

    for path, sent in (
        ("/jobs", body),
        ("/jobs/batch", b"[%s]" % body),
        ("/jobs/stream", body.replace(b"\n", b" ")),
    ):
        problem = assert_problem(await api.client.post(path, sent), 400)
        assert problem["detail"].endswith(REPEATED)
    assert len(api.parts.store) == 0


@pytest.mark.parametrize("body", ONCE.values(), ids=ONCE.keys())
def test_submission_with_each_key_once_is_taken(body: bytes) -> None:
    submission = parse_submission(body, HANDLERS, utc_now)

    expected = json.loads(body)
    assert submission.type == expected["type"]
    assert json.loads(submission.payload) == expected.get("payload")


BLANKS = st.text(" \n\t\r", max_size=3)
KEYS = {"type": ['"type"', '"t\\u0079pe"'], "payload": ['"payload"', '"p\\u0061yload"']}
VALUES = st.recursive(
    st.none() | st.integers(0, 120) | st.text(max_size=8) | st.sampled_from(["type", "payload"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "payload", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def submissions(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A submission with a type, and whether one of its keys stands twice."""
    names = draw(st.lists(st.sampled_from(["type", "payload"]), max_size=3))
    names.insert(draw(st.integers(0, len(names))), "type")
    members = []
    for name in names:
        values = st.text(min_size=1, max_size=8) if name == "type" else VALUES
        value = json.dumps(draw(values), ensure_ascii=draw(st.booleans()))
        key = draw(st.sampled_from(KEYS[name]))
        members.append(f"{draw(BLANKS)}{key}{draw(BLANKS)}:{draw(BLANKS)}{value}{draw(BLANKS)}")
    text = f"{draw(BLANKS)}{{{','.join(members)}}}{draw(BLANKS)}"
    return text.encode(), len(set(names)) < len(names)


@given(submissions())
def test_submission_is_refused_if_and_only_if_a_key_stands_twice(
    submission: tuple[bytes, bool],
) -> None:
    body, repeated = submission
    refused = ""
    try:
        parse_submission(body, HANDLERS, utc_now)
    except Problem as problem:
        refused = problem.detail

    assert refused == (REPEATED if repeated else "")

"""Hostile JSON: each shape of it is a 400, and nothing that was accepted can break a `GET`."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.proof.share import scaled
from trio_jobs.api.validation import check_depth
from trio_jobs.handlers.payload_faults import MAX_DEPTH, TooDeepError


def nested(opening: bytes, closing: bytes, depth: int, inner: bytes = b"") -> bytes:
    return opening * depth + inner + closing * depth


def arrays(depth: int) -> bytes:
    return nested(b"[", b"]", depth)


def objects(depth: int) -> bytes:
    return nested(b'{"a":', b"}", depth - 1, b"{}")


REFUSED = {
    "a byte that is no UTF-8": b'{"type":"\xff"}',
    "in the payload": b'{"type":"email","payload":"\xff"}',
    "in a key of the payload": b'{"type":"email","payload":{"\xff":1}}',
    "in a key of the submission": b'{"type":"email","\xff":1}',
    "overlong": b'{"type":"\xc0\xaf"}',
    "an overlong payload": b'{"type":"email","payload":"\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"type":"\xed\xa0\x80"}',
    "a surrogate in UTF-8 as payload": b'{"type":"email","payload":"\xed\xa0\x80"}',
    "a lone surrogate, escaped": b'{"type":"\\ud800"}',
    "a lone surrogate, escaped, as payload": b'{"type":"email","payload":"\\ud800"}',
    "a low surrogate": b'{"type":"email","payload":"\\udc00"}',
    "surrogates the wrong way round": b'{"type":"email","payload":"\\udc00\\ud800"}',
    "a lone surrogate in a key": b'{"type":"email","payload":{"\\ud800":1}}',
    "a byte order mark": b'\xef\xbb\xbf{"type":"email"}',
    "UTF-16": '{"type":"email"}'.encode("utf-16"),
    "UTF-16 little-endian": '{"type":"email"}'.encode("utf-16-le"),
    "UTF-32": '{"type":"email"}'.encode("utf-32"),
    "latin-1": '{"type":"é"}'.encode("latin-1"),
    "a raw control character": b'{"type":"email","payload":"\n"}',
    "a raw NUL": b'{"type":"email","payload":"\0"}',
    "NUL after the end": b'{"type":"email"}\0',
    "a huge exponent": b'{"type":"email","payload":1e999}',
    "a huge exponent below zero": b'{"type":"email","payload":[-1e999]}',
    "NaN": b'{"type":"email","payload":NaN}',
    "Infinity": b'{"type":"email","payload":Infinity}',
    "-Infinity": b'{"type":"email","payload":-Infinity}',
    "a leading zero": b'{"type":"email","payload":01}',
    "a plus sign": b'{"type":"email","payload":+1}',
    "hexadecimal": b'{"type":"email","payload":0x1}',
    "no digit after the point": b'{"type":"email","payload":1.}',
    "single quotes": b"{'type':'email'}",
    "a comment": b'{"type":"email"} // a comment',
    "a comma too many": b'{"type":"email","payload":[1,]}',
    "cut off": b'{"type":"email","payload":[1',
    "cut off in a string": b'{"type":"email","payload":"',
    "cut off in an escape": b'{"type":"email","payload":"\\u12',
    "an unknown escape": b'{"type":"email","payload":"\\x41"}',
    "two values": b'{"type":"email"}{"type":"email"}',
    "nothing": b"",
    "white space": b" \r\n\t",
    "a number of 5,000 digits": b'{"type":"email","payload":' + b"9" * 5000 + b"}",
    "one more level than allowed": b'{"type":"email","payload":' + arrays(65) + b"}",
    "65 objects": b'{"type":"email","payload":' + objects(65) + b"}",
    "65 levels of both": b'{"type":"email","payload":'
    + b'[{"a":' * 32
    + b"[1]"
    + b"}]" * 32
    + b"}",
    "990 levels": b'{"type":"email","payload":' + arrays(990) + b"}",
    "990 objects": b'{"type":"email","payload":' + objects(990) + b"}",
    "5,000 levels": b'{"type":"email","payload":' + arrays(5000) + b"}",
    "5,000 objects": b'{"type":"email","payload":' + objects(5000) + b"}",
    "20,000 levels": b'{"type":"email","payload":' + arrays(20_000) + b"}",
    "20,000 objects": b'{"type":"email","payload":' + objects(20_000) + b"}",
    "5,000 brackets and nothing else": b"[" * 5000,
    "20,000 brackets and nothing else": b"[" * 20_000,
    "20,000 braces": b'{"a":' * 20_000,
    "20,000 levels in the wrong place": b'{"type":' + arrays(20_000) + b"}",
    "20,000 levels in an unknown key": b'{"type":"email","more":' + arrays(20_000) + b"}",
    "a key of 900,000 characters": b'{"' + b"x" * 900_000 + b'":1}',
    "20,000 closing brackets": b"]" * 20_000,
}


class Named(msgspec.Struct):
    """Knows one of the fields that are sent."""

    name: str = ""


class Unread(msgspec.Struct):
    """Takes a field as it is."""

    raw: msgspec.Raw


async def take_named(_payload: Named) -> None: ...


async def take_unread(_payload: Unread) -> None: ...


@pytest.mark.parametrize(
    "payload",
    [
        b'{"junk":"\xff"}',
        b'{"junk":1e999}',
        b'{"junk":%s}' % (b"9" * 5000),
        b'{"junk":["\\ud800"]}',
        b'{"\xff":1}',
        b'{"raw":"\xff"}',
        b'{"raw":[1e999]}',
    ],
)
async def test_what_a_typed_payload_does_not_name_is_refused_as_well(payload: bytes) -> None:
    api = Api({"email": take_unread if b"raw" in payload else take_named})
    body = b'{"type":"email","payload":%s}' % payload

    assert_problem(await api.client.post("/jobs", body), 400)
    assert_problem(await api.client.post("/jobs/batch", b"[%s]" % body), 400)
    assert_problem(await api.client.post("/jobs/stream", body), 400)
    assert len(api.parts.store) == 0


async def test_place_of_a_fault_is_told_whatever_its_key_is() -> None:
    class Strict(msgspec.Struct, forbid_unknown_fields=True):
        inner: dict[str, int] = {}

    async def take(payload: object) -> None: ...

    take.__annotations__["payload"] = dict[str, Strict]
    api = Api({"email": take})
    body = b'{"type":"email","payload":{"a":{"x - at $.z":1}}}'

    problem = assert_problem(await api.client.post("/jobs", body), 400)

    assert problem["detail"] == "$.payload[...]: object contains unknown field x - at $.z"


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in REFUSED.items()])
async def test_hostile_json_is_refused_on_each_route_with_a_reason_and_keeps_nothing(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(max_body_bytes=1_000_000)

    problem = assert_problem(await api.client.post("/jobs", body), 400)
    assert len(problem["detail"]) < 500
    batch = b"[%s,%s]" % (SUBMISSION, body)
    assert_problem(await api.client.post("/jobs/batch", batch), 400)
    assert len(api.parts.store) == 0
    if body.strip():  # an empty line is none
        problem = assert_problem(await api.client.post("/jobs/stream", body), 400)
        assert problem["accepted"] == 0
    assert len(api.parts.store) == 0
    assert api.parts.receive.statistics().current_buffer_used == 0
    assert not caplog.records


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty; JSON was expected"),
        (b" \r\n", "the body is empty; JSON was expected"),
        (
            b'{"type":"\\ud800"}',
            "the body is not valid JSON: \\ud800 is half of a surrogate pair",
        ),
        (
            b'{"type":"email","payload":{"to":["\\uD83D"]}}',
            "the body is not valid JSON: \\uD83D is half of a surrogate pair",
        ),
        (
            b'{"type":"email","payload":"\\\\\\ud83d"}',
            "the body is not valid JSON: \\ud83d is half of a surrogate pair",
        ),
        # Cut off, with an escaped backslash before what looks like one.
        (b'{"type":"\\\\ud83d', "the body is not valid JSON: Input data was truncated"),
        (b'{"type":"\\ud83d\\ude00', "the body is not valid JSON: Input data was truncated"),
    ],
)
async def test_body_without_an_end_is_told_why(body: bytes, detail: str) -> None:
    problem = assert_problem(await Api().client.post("/jobs", body), 400)

    assert problem["detail"] == detail


ACCEPTED = {
    "64 levels": arrays(64),
    "64 objects": objects(64),
    "brackets in a string": b'"' + b"[{" * 2000 + b'"',
    "brackets in a string after an escaped quote": b'"\\"' + b"[" * 500 + b'"',
    "brackets in a string after escaped backslashes": b'["\\\\\\\\","' + b"[" * 500 + b'"]',
    "brackets in keys": b'{"' + b"[" * 500 + b'":1}',
    "many arrays beside each other": b"[" + b"[],".join([b""] * 500) + b"[]]",
    "a pair of surrogates": b'"\\ud83d\\ude00"',
    "an escaped NUL": b'"\\u0000"',
    "every control character": json.dumps("".join(map(chr, range(0x20)))).encode(),
    "the last characters of Unicode": '"\uffff\U0010ffff"'.encode(),
    "a large integer": b"123456789012345678901234567890",
    "a large float": b"1.7976931348623157e308",
    "a float that rounds to zero": b"1e-999",
    "minus zero": b"-0.0",
    "the same key twice": b'{"a":1,"a":2}',
    "an empty key": b'{"":null}',
    "white space": b' [ 1 , { "a" : null } ] ',
    "script tags": b'"</script><script>"',
}


@pytest.mark.parametrize("payload", [pytest.param(p, id=name) for name, p in ACCEPTED.items()])
async def test_what_was_accepted_is_shown_by_every_get(payload: bytes) -> None:
    api = Api()

    submitted = await api.client.post("/jobs", b'{"type":"email","payload":' + payload + b"}")

    assert submitted.status == 201, submitted
    one = await api.client.get(submitted.headers["location"])
    assert json.loads(one.body)["payload"] == json.loads(payload)
    for target in ("/jobs", "/jobs?limit=10"):
        assert [job["id"] for job in json.loads((await api.client.get(target)).body)] == [
            submitted.json()["id"]
        ]


async def test_key_given_twice_in_a_payload_counts_as_its_last_value() -> None:
    api = Api()

    answer = await api.client.post("/jobs", b'{"type":"email","payload":{"to":1,"to":2}}')

    assert answer.status == 201
    assert (await api.client.get(answer.headers["location"])).json()["payload"] == {"to": 2}


@pytest.mark.parametrize(
    "type_", ["a b", "é", "\N{GRINNING FACE}", "\x00", "x" * 9000, "</script>"]
)
async def test_any_text_that_is_not_empty_is_a_type(type_: str) -> None:
    api = Api()

    answer = await api.client.post("/jobs", json.dumps({"type": type_}).encode())

    assert answer.status == 201
    assert (await api.client.get("/jobs")).json()[0]["type"] == type_


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=scaled(30))
@given(json_values)
def test_the_depth_check_passes_whatever_is_not_deep(value: object) -> None:
    check_depth(json.dumps(value).encode())
    check_depth(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@given(st.lists(st.sampled_from("[{"), min_size=1, max_size=200), st.text('[]{}\\" é', max_size=99))
def test_the_depth_check_counts_levels_and_not_brackets_in_texts(kinds: str, text: str) -> None:
    value: object = text
    for kind in kinds:
        value = [text, value, []] if kind == "[" else {text: [[]], text + "2": value}
    encoded = json.dumps(value).encode()

    if _depth(value) > MAX_DEPTH:
        with pytest.raises(TooDeepError, match="deeper than 64 levels"):
            check_depth(encoded)
    else:
        check_depth(encoded)


def _depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 0

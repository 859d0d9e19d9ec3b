"""Requests of canonical form: the head of one, parsed without h11.

A request is *of canonical form* if it uses only what common clients need: GET or POST, a plain
path, a ``Host``, no header twice, a connection that stays open. h11 takes many
times as long for such a head as the one regular expression here.

One rule holds: **this module accepts less than h11, never more.** h11 reads each request that is
accepted here to the same method, target, headers and body, and is then ready for the next one.
Every other request is h11's, byte for byte.
"""

import re
from functools import lru_cache

import msgspec

from trio_jobs.server.access_control import Fields, Headers, fields_of
from trio_jobs.server.request_head import SHORT_BODY, HeaderList
from trio_jobs.settings import HttpSettings

# RFC 9110, 5.6.2.
TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"
# A header without control characters, without a blank before its colon, on one line.
_HEADER = TOKEN + rb":[\t -~\x80-\xff]*+\r\n"
# A path in visible ASCII characters. One with an escape, a query or a fragment is h11's.
_PATH = rb"/[^\x00- #%?\x7f-\xff]*+"
# No quantifier gives characters back: the time is linear in the length, whatever a client sends.
_REQUEST_LINE = re.compile(rb"(GET|POST) (%b) HTTP/1\.1\r\n" % _PATH)
_HEADERS = re.compile(rb"((?:%b)++)\r\n" % _HEADER)
# Headers that decide how long a request is, or what happens to its connection.
_DECISIVE = frozenset(
    b"connection content-length expect te trailer transfer-encoding upgrade".split()
)
# More digits than any length that the settings allow.
_LENGTH_DIGITS = 9
# A client repeats its headers from request to request. So many header blocks of at most so many
# bytes are kept with what was parsed from them. Parsed, a block takes up to 40 times its length:
# 5 MB for all.
_KEPT_BLOCKS = 256
_KEPT_BYTES = 512


class CanonicalRequest(msgspec.Struct, frozen=True, gc=False):
    """A request of canonical form whose head has arrived.

    Attributes:
        method: ``GET`` or ``POST``.
        target: A path, as the client has sent it.
        headers: Names in lower case, values without surrounding blanks, in the client's order.
        fields: The value of each header, by its name.
        body_start: The index of the body's first byte, counted from the request's first byte.
        end: The index after the body's last byte, which may not have arrived.
    """

    method: bytes
    target: bytes
    headers: Headers
    fields: Fields
    body_start: int
    end: int


class CanonicalParser:
    """Parses requests of canonical form.

    Args:
        settings: The limits. Only a body that the server reads before it calls the application is
            short enough.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._max_header_bytes = settings.max_header_bytes
        self._max_body_bytes = min(SHORT_BODY, settings.max_body_bytes)
        self._parse_repeated = lru_cache(_KEPT_BLOCKS)(_parse_headers)

    def parse(self, data: bytes) -> CanonicalRequest | None:
        """Parse the bytes that a client has sent after its last request.

        Args:
            data: From the request's first byte on.

        Returns:
            The request that ``data`` is, or is the start of; None if h11 has to look at the bytes:
            the request is not of canonical form, its head is incomplete, a limit is exceeded, or
            more bytes follow.
        """
        line = _REQUEST_LINE.match(data)
        if line is None:
            return None
        start = line.end()
        body_start = data.find(b"\r\n\r\n", start) + 4
        parse = self._parse_repeated if body_start - start <= _KEPT_BYTES else _parse_headers
        parsed = parse(data[start:body_start])
        if parsed is None:
            return None
        headers, fields, length = parsed
        end = body_start + length
        # ``request_head`` counts four bytes for each header beside name and value. Of the bytes
        # here, the header has three at least.
        if body_start + len(headers) > self._max_header_bytes:
            return None
        if length > self._max_body_bytes or len(data) > end:
            return None
        return CanonicalRequest(line[1], line[2], headers, fields, body_start, end)


def _parse_headers(block: bytes) -> tuple[Headers, Fields, int] | None:
    """The headers, twice, and the length of the body; None if they are not of canonical form.

    Args:
        block: The lines of the headers, and the empty line after them.
    """
    found = _HEADERS.fullmatch(block)
    if found is None:
        return None
    headers: HeaderList = []
    length = 0
    for line in found[1][:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        if name in _DECISIVE:
            if name == b"content-length" and value.isdigit() and len(value) <= _LENGTH_DIGITS:
                length = int(value)
            elif name != b"connection" or value.lower() != b"keep-alive":
                return None
        headers.append((name, value))
    fields = fields_of(headers)
    if b"host" not in fields or len(fields) < len(headers):
        return None
    return tuple(headers), fields, length

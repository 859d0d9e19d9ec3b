"""The text of an answer that is an error."""

import httpx
import msgspec

# Characters of an error page of another server.
_MAX_TEXT = 300


class _Problem(msgspec.Struct):
    detail: str


def problem_text(answer: httpx.Response) -> str:
    """What the server says, or how the body of another server's answer begins."""
    try:
        return msgspec.json.decode(answer.content, type=_Problem).detail
    except httpx.ResponseNotRead:
        return answer.reason_phrase
    except msgspec.DecodeError:
        text = " ".join(answer.text.split())
        return text[:_MAX_TEXT] or answer.reason_phrase

"""`/ui/session`: who asks; and how people sign in on the page, and out again."""

import msgspec
from quart import Quart, Response

from trio_jobs.access import Access
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access, current_client, log_action
from trio_jobs.api.quart_adapter import no_content
from trio_jobs.api.request_body import read_body
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.api.ui_headers import UI_HEADERS
from trio_jobs.problem_details import Problem

# Of a sign-in; far more than a token's usual length.
_MAX_BODY_BYTES = 4_096


class _SignedIn(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    token: str


_decode = msgspec.json.Decoder(_SignedIn).decode


def add_session_routes(app: Quart, context: ApiContext) -> None:
    """Add ``GET /ui/session``; and ``POST`` and ``DELETE``, if people can sign in here."""
    sign_in = context.sign_in

    @app.get("/ui/session")
    async def show_session() -> Response:
        access = current_access()
        if access.role is None:
            headers = {"WWW-Authenticate": 'Bearer realm="trio-jobs"'}
            raise Problem(401, "nobody has signed in, or the session is over", headers=headers)
        return _show(access, session=access.expires is not None)

    if not context.offers_sign_in:
        return

    @app.post("/ui/session")
    async def begin_session() -> Response:
        limit = min(_MAX_BODY_BYTES, context.http.max_body_bytes)
        token = _parse_token(await read_body(max_bytes=limit))
        if sign_in is None:  # without tokens everybody has control
            return _show(current_access(), session=False)
        access = await sign_in.check(token, client=current_client())
        log_action("sign_in", access)
        response = _show(access, session=True)
        response.headers["Set-Cookie"] = sign_in.sessions.begin(access.fingerprint)
        return response

    @app.delete("/ui/session")
    async def end_session() -> Response:
        if sign_in is None:
            return no_content({**UI_HEADERS})
        access = current_access()
        if access.expires is not None:
            log_action("sign_out", access)
        return no_content({**UI_HEADERS, "Set-Cookie": sign_in.sessions.end()})


def _show(access: Access, *, session: bool) -> Response:
    shown = {"role": access.role, "name": access.name, "session": session}
    return Response(msgspec.json.encode(shown), headers=UI_HEADERS, content_type=MEDIA_TYPE)


def _parse_token(body: bytes) -> str:
    """The token in ``{"token": …}``.

    Raises:
        Problem: 400; it quotes nothing of the body.
    """
    try:
        return _decode(body).token
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Problem(400, 'the body must be {"token": "…"}') from None

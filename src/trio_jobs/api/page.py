"""`GET /ui`: the page for operators, four files of the package.

The files hold no data. The page's script asks the other routes for all that it shows, so they
alone decide who may see it.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources

from quart import Quart, Response, request

from trio_jobs.api.quart_adapter import no_content
from trio_jobs.api.ui_headers import UI_HEADERS

# All addresses in the page are relative to `/ui`, so it works below the path of a proxy as well.
_FILES = {
    "/ui": ("index.html", "text/html; charset=utf-8"),
    "/ui/app.css": ("app.css", "text/css; charset=utf-8"),
    "/ui/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/ui/icon.svg": ("icon.svg", "image/svg+xml"),
}

# A browser asks whether the file is still the same: after an upgrade it gets the new one.
_HEADERS = {"Cache-Control": "no-cache", **UI_HEADERS}


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the page, and its tag, which changes with its content."""

    body: bytes
    media_type: str
    tag: str


def add_page_routes(app: Quart) -> None:
    """Add ``GET /``, ``GET /ui`` and the files below it."""
    files = {path: _read(*file) for path, file in _FILES.items()}

    @app.get("/")
    async def show_root() -> Response:
        return Response(b"", 303, headers={"Location": "ui"})

    async def show_file() -> Response:
        file = files[request.path]
        headers = {**_HEADERS, "ETag": f'"{file.tag}"'}
        if request.if_none_match.contains_weak(file.tag):
            return no_content(headers, status=304)
        return Response(file.body, headers=headers, content_type=file.media_type)

    for path in files:
        app.get(path)(show_file)


def _read(name: str, media_type: str) -> _File:
    body = resources.files("trio_jobs.api").joinpath("ui", name).read_bytes()
    return _File(body, media_type, hashlib.sha256(body).hexdigest()[:32])

"""Who is let in."""

import logging
from typing import Any

import pytest

from tests.support import AccessControl, Problem, TokenTable
from trio_jobs.server.access_control import fields_of

from .serving import echo, get, post, served


def status_of(
    access_control: AccessControl,
    method: str = "POST",
    path: str = "/jobs",
    *,
    loopback: bool = True,
    **headers: Any,  # noqa: ANN401 - texts
) -> int:
    """What a request with these headers gets; 200 if it is let in."""
    pairs = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, value in headers.items()
    ]
    try:
        access_control.check(method, path, fields_of(pairs), loopback=loopback)
    except Problem as error:
        return error.status
    return 200


TOKENS = TokenTable.of_one("s3cret")

OWN_HOSTS = [
    *["localhost", "localhost:8080", "LocalHost", "localhost.", "localhost.:80"],
    *["127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080", "jobs.example", "Jobs.Example:443"],
]
FOREIGN_HOSTS = [
    "evil.example",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example:80",
    "[::1].evil.example",
    "[::2]",
    "",
    ":8080",
    "localhost@evil.example",
    "127.1",
]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_own_and_allowed_host_names_are_let_in(host: str) -> None:
    access_control = AccessControl(allowed_hosts=["jobs.example:80"])

    assert status_of(access_control, "GET", host=host) == 200


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_foreign_host_names_are_refused_on_loopback_and_only_there(host: str) -> None:
    assert status_of(AccessControl(), "GET", host=host) == 403
    assert status_of(AccessControl(), "GET", host=host, loopback=False) == 200
    assert status_of(AccessControl(allowed_hosts=["*"]), "GET", host=host) == 200


def test_an_allowed_ipv6_address_may_lack_its_brackets_and_nothing_allows_the_empty_host() -> None:
    for allowed in ("::1", "[::1]", ":80", "", "fe80::A"):
        access_control = AccessControl(allowed_hosts=[allowed])
        assert status_of(access_control, host="") == 403
        assert status_of(access_control, host=":80") == 403
    assert status_of(access_control, host="[fe80::a]:80") == 200


OTHER_SITES = ["cross-site", "same-site", "", "nonsense"]


@pytest.mark.parametrize("site", OTHER_SITES)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "BREW"])
def test_a_page_of_another_site_may_not_write(site: str, method: str) -> None:
    for origin in ({}, {"origin": "http://localhost"}):  # what the browser says of the site counts
        headers: Any = {"host": "localhost", "sec_fetch_site": site, **origin}
        assert status_of(AccessControl(), method, **headers) == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_our_own_page_and_the_user_may_write(site: str) -> None:
    assert status_of(AccessControl(), host="localhost", sec_fetch_site=site) == 200


def test_clients_that_are_no_browsers_may_write() -> None:
    assert status_of(AccessControl(), host="localhost") == 200
    assert status_of(AccessControl()) == 200  # HTTP/1.0 without a host


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_is_not_refused_by_origin(method: str) -> None:
    origin = "https://evil.example"

    assert status_of(AccessControl(), method, sec_fetch_site="cross-site", origin=origin) == 200


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://localhost:8080", "localhost:8080", 200),
        ("http://LOCALHOST:8080", "localhost:8080", 200),
        ("http://localhost", "localhost:80", 200),
        ("http://localhost:80", "localhost", 200),
        ("https://localhost", "localhost:443", 200),
        ("http://localhost:8080", "localhost:8081", 403),
        ("http://localhost:8080", "127.0.0.1:8080", 403),
        ("https://localhost", "localhost:80", 403),
        ("http://evil.example", "localhost", 403),
        ("null", "localhost", 403),
        ("", "localhost", 403),
        ("localhost", "localhost", 403),
        ("file://", "localhost", 403),
        ("http://", "", 403),
    ],
)
def test_without_site_the_origin_must_be_our_host(origin: str, host: str, status: int) -> None:
    assert status_of(AccessControl(), host=host, origin=origin) == status


@pytest.mark.parametrize(
    "authorization", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret", "Bearer s3cret "]
)
def test_the_right_token_is_let_in(authorization: str) -> None:
    assert status_of(AccessControl(tokens=TOKENS), authorization=authorization) == 200


WRONG_TOKENS = [
    "",
    "Bearer",
    "Bearer ",
    "Bearer s3cre",
    "Bearer s3cret2",
    "Basic s3cret",
    "s3cret",
    "Bearer \xff",
]


@pytest.mark.parametrize("authorization", WRONG_TOKENS)
def test_a_wrong_token_is_refused(authorization: str) -> None:
    access_control = AccessControl(tokens=TOKENS)

    assert status_of(access_control, authorization=authorization) == 401
    assert status_of(access_control) == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/health/ready", 200),
        ("POST", "/health", 401),
        ("GET", "/healthy", 401),
        ("GET", "/nothing", 401),
        ("GET", "/jobs", 401),
        ("GET", "/metrics", 200),
        ("GET", "/metrics/", 401),
        ("POST", "/metrics", 401),
    ],
)
def test_only_reading_the_open_paths_needs_no_token(method: str, path: str, status: int) -> None:
    access_control = AccessControl(
        tokens=TOKENS, health_path="/health", open_paths=frozenset({"/metrics"})
    )

    assert status_of(access_control, method, path) == status
    assert status_of(AccessControl(tokens=TOKENS), method, path) == 401


async def test_refusals_are_answers_in_the_error_format_and_the_token_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with served(echo, token="s3cret", health_path="/", access_log=True) as server:  # noqa: S106
        unauthorized = await server.request(post(b"x", "/jobs"))
        wrong = await server.request(post(b"x", "/jobs", "Authorization: Bearer n0t-right"))
        right = await server.request(post(b"x", "/jobs", "Authorization: Bearer s3cret"))
        foreign = await server.request(get().replace(b"localhost", b"evil.example"))

    assert unauthorized.status == wrong.status == 401
    assert unauthorized.headers["www-authenticate"] == 'Bearer realm="trio-jobs"'
    assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
    assert unauthorized.json()["error"] == "a bearer token is required"
    assert right.status == 200
    assert foreign.status == 403
    logged = " ".join(str(vars(record)) for record in caplog.records)
    assert "s3cret" not in logged
    assert "n0t-right" not in logged


async def test_the_hosts_that_are_bound_are_allowed_and_others_if_they_are_named() -> None:
    async with served(echo, "127.0.0.3:0", allowed_hosts=["jobs.example"]) as server:
        host = server.urls[0].removeprefix("http://")
        statuses = []
        for name in (host, "jobs.example:1", "evil.example"):
            client = await server.connect(host=host.partition(":")[0])
            statuses.append(
                (await client.request(get().replace(b"localhost", name.encode()))).status
            )

    assert statuses == [200, 200, 403]


async def test_an_address_for_everybody_without_a_token_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(echo, "0.0.0.0:0") as server:
        foreign = await server.request(get().replace(b"localhost", b"jobs.example"))
        assert foreign.status == 200

    [line] = [record for record in caplog.records if "listening_to" in record.getMessage()]
    assert "http.token_file" in vars(line)["meaning"]
    caplog.clear()
    async with served(echo, "0.0.0.0:0", token="s3cret"):  # noqa: S106
        pass
    async with served(echo, "127.0.0.1:0"):
        pass
    assert "listening_to" not in caplog.text


def detail_of(**headers: str) -> str:
    """Why a request with these headers is refused."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    with pytest.raises(Problem) as caught:
        AccessControl().check("POST", "/jobs", fields_of(pairs), loopback=True)
    return str(caught.value)


def test_refused_name_is_bounded_and_escaped() -> None:
    detail = detail_of(host="\u00e9'\"<\\" + "x" * 10_000)

    assert detail.isascii()
    assert detail.isprintable()
    assert len(detail) < 250


def test_refused_origin_is_told_with_what_it_was_compared_with() -> None:
    assert detail_of(host="localhost", origin="http://localhost:8443") == (
        "pages of another origin may not write here: Origin is 'http://localhost:8443', "
        "Host is 'localhost'; a proxy must pass both on as they came"
    )
    assert detail_of(host="localhost", sec_fetch_site="cross-site") == (
        "pages of another origin may not write here: Sec-Fetch-Site is 'cross-site'"
    )
    assert len(detail_of(host="localhost", origin="x" * 10_000)) < 400


async def test_refused_name_is_told_to_the_client_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with served(echo) as server:
        answer = await server.request(get("/").replace(b"localhost", b"jobs.example"))

    detail = (
        "the host name 'jobs.example' is not served here; http.allowed_hosts takes further names"
    )
    assert answer.json()["detail"] == detail
    [refused] = [record for record in caplog.records if record.message == "request_refused"]
    assert vars(refused)["reason"] == detail

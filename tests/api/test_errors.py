"""Errors have one form, on every path and for every method; none is a redirect, none a 500."""

import pytest

from tests.api.support import SUBMISSION, Api, assert_problem

JOB_ID = "01936d3c-0000-7000-8000-000000000000"

UNKNOWN_PATHS = [
    "//",
    "//jobs",
    "///health",
    "/job",
    "/jobs/",
    "/jobs//x",
    "/jobs/x/y",
    "/Jobs",
    "/jobs/batch/",
    "/jobs/stream/",
    f"/jobs/{JOB_ID}/",
    f"/jobs/{JOB_ID}/cancel/",
    f"/jobs/{JOB_ID[1:]}",
    "/health/",
    "/health/ready/",
    "/health/live",
    "/ui/",
    "/ui/app.html",
    "/static/x",
    "/jobs\x00",
    "/\xff",
    "/é",
    "/jobs;x",
    "/" + "x" * 5000,
    "*",
    "",
]


# Sorted: a set's own order is another one in each process.
ALLOWED = [
    ("/jobs", "GET, HEAD, OPTIONS, POST"),
    ("/jobs/batch", "OPTIONS, POST"),
    ("/jobs/stream", "OPTIONS, POST"),
    (f"/jobs/{JOB_ID}", "DELETE, GET, HEAD, OPTIONS"),
    (f"/jobs/{JOB_ID}/cancel", "OPTIONS, POST"),
    ("/health", "GET, HEAD, OPTIONS"),
    ("/health/ready", "GET, HEAD, OPTIONS"),
    ("/openapi.json", "GET, HEAD, OPTIONS"),
    ("/", "GET, HEAD, OPTIONS"),
    ("/ui", "GET, HEAD, OPTIONS"),
    ("/ui/app.js", "GET, HEAD, OPTIONS"),
]


@pytest.mark.parametrize("path", UNKNOWN_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "FOO"])
async def test_an_unknown_path_is_404(
    method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()

    assert_problem(await api.client.request(method, path, body=SUBMISSION), 404)
    assert len(api.parts.store) == 0
    assert not caplog.records


@pytest.mark.parametrize(("path", "allowed"), ALLOWED)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "FOO", "PRI"])
async def test_a_method_that_the_path_does_not_have_is_405(
    method: str, path: str, allowed: str
) -> None:
    answer = await Api().client.request(method, path)

    assert_problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(("path", "allowed"), ALLOWED)
@pytest.mark.parametrize("query", ["", "?limit=1"])
async def test_options_names_the_methods_and_is_no_page(
    path: str, allowed: str, query: str
) -> None:
    answer = await Api().client.request("OPTIONS", path + query)

    assert (answer.status, answer.headers["allow"], answer.body) == (204, allowed, b"")
    assert not {"content-type", "content-length"} & answer.headers.keys()


@pytest.mark.parametrize("target", ["/jobs", "/jobs?limit=1", "/health", "/health/ready", "/x"])
async def test_head_is_get_without_a_body(target: str) -> None:
    api = Api()
    await api.client.post("/jobs", SUBMISSION)

    got = await api.client.request("GET", target)
    head = await api.client.request("HEAD", target)

    assert head.status == got.status
    assert head.body == b""
    assert dict(head.headers) == dict(got.headers)


async def test_absolute_form_targets_work() -> None:
    assert (await Api().client.get("http://elsewhere/health")).status == 200
    assert (await Api().client.get("http://elsewhere")).status == 303  # as `/`


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64, "", "a b", "[", "a/b", "\xe9"])
async def test_host_that_is_no_name_does_no_harm(host: str) -> None:
    answer = await Api().client.request("POST", "/jobs", body=SUBMISSION, headers={"host": host})

    assert answer.status == 201


@pytest.mark.parametrize("header", ["Content-Length", "Transfer-Encoding", "Expect", "Cookie"])
async def test_nonsense_in_headers_does_no_harm(header: str) -> None:
    api = Api()
    answer = await api.client.request(
        "POST", "/jobs", body=SUBMISSION, headers={header: "\xff nonsense"}
    )
    assert answer.status == 201


@pytest.mark.parametrize(
    "fault", [RuntimeError("the secret cause"), ExceptionGroup("the secret cause", [KeyError()])]
)
async def test_a_fault_in_a_route_is_a_500_without_a_traceback_which_the_log_has(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()

    @api.app.get("/broken")
    async def broken() -> str:
        raise fault

    problem = assert_problem(await api.client.get("/broken"), 500)

    assert "secret" not in problem["detail"]
    assert "the secret cause" in caplog.text
    assert (await api.client.get("/health")).status == 200


ROUTES = [
    ("POST", "/jobs"),
    ("POST", "/jobs/batch"),
    ("POST", "/jobs/stream"),
    ("GET", f"/jobs/{JOB_ID}"),
    ("HEAD", f"/jobs/{JOB_ID}"),
    ("DELETE", f"/jobs/{JOB_ID}"),
    ("POST", f"/jobs/{JOB_ID}/cancel"),
    ("GET", "/health"),
    ("HEAD", "/health"),
    ("GET", "/health/ready"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize("query", ["x", "x=1", "limit=1", "status=pending&x=1", "="])
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_path_without_query_parameters_refuses_them(
    method: str, path: str, query: str
) -> None:
    api = Api()

    answer = await api.client.request(method, f"{path}?{query}", body=SUBMISSION)

    assert answer.status == 400
    if method != "HEAD":
        name = query.partition("=")[0]
        assert assert_problem(answer, 400)["detail"] == (
            f"unknown query parameter {name.partition('&')[0]!r}; this path has none"
        )
    assert len(api.parts.store) == 0


async def test_a_query_that_cannot_be_read_is_refused_on_every_path() -> None:
    answer = await Api().client.get("/health?%ff")

    assert "the query string cannot be read" in assert_problem(answer, 400)["detail"]


@pytest.mark.parametrize("target", ["/health?", "/health?&", "/jobs?limit=1"])
async def test_a_query_without_unknown_parameters_is_none(target: str) -> None:
    assert (await Api().client.get(target)).status == 200


@pytest.mark.parametrize(
    "coding", ["gzip", "GZIP", "identity, br", "gzip, identity", "x-unknown", "deflate ,gzip"]
)
@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", "/jobs/stream", "/jobs/pipe"])
async def test_an_encoded_body_is_415_and_kept_out(path: str, coding: str) -> None:
    api = Api()

    answer = await api.client.post(path, SUBMISSION, content_encoding=coding)

    problem = assert_problem(answer, 415)
    assert problem["detail"] == (
        f"Content-Encoding must be identity, as without it, got {coding!r}"
    )
    assert answer.headers["accept-encoding"] == "identity"
    assert answer.headers["connection"] == "close"
    assert problem.get("accepted") == (0 if path == "/jobs/stream" else None)
    assert len(api.parts.store) == 0


@pytest.mark.parametrize("coding", ["identity", "Identity", "", "identity, identity"])
@pytest.mark.parametrize("path", ["/jobs", "/jobs/stream"])
async def test_a_body_that_is_not_encoded_may_say_so(path: str, coding: str) -> None:
    answer = await Api().client.post(path, SUBMISSION, content_encoding=coding)

    assert answer.status == 201

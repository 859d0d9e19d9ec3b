"""`GET /openapi.json` is valid, complete, and says what the server does."""

from importlib import metadata, resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.api.support import SUBMISSION, Api, FakeMetrics, accept, assert_problem
from tests.asgi import Answer
from tests.support import make_parts
from trio_jobs import Ending, JobError, JobStatus, Outcome
from trio_jobs.api.listing import MAX_LIMIT


class Address(msgspec.Struct):
    """Part of a payload."""

    street: str
    number: int


class Parcel(msgspec.Struct):
    """A payload that refers to other types, and to itself."""

    to: Address
    weight: float
    inside: "list[Parcel]" = []


async def ship(payload: Parcel) -> None:
    """A handler whose payload has a type."""


async def resize(payload: int | None) -> None:
    """A handler that takes nothing as well."""


async def weigh(parcel: Parcel, scale: str = "old", *, times: int | None = None) -> None:
    """A handler with several parameters."""


async def tidy(_depth: int = 3) -> None:
    """A handler without a payload."""


async def document(api: Api | None = None) -> dict[str, Any]:
    answer = await (api or Api()).client.get("/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    return msgspec.json.decode(answer.body, type=dict[str, Any])


FUNCTIONS = [
    pytest.param({"default": accept}, id="default"),
    pytest.param({"email": accept}, id="email"),
    pytest.param({"ship": ship, "resize": resize, "default": accept}, id="typed"),
    pytest.param({"weigh": weigh, "tidy": tidy}, id="several parameters"),
]


@pytest.mark.parametrize("functions", FUNCTIONS)
async def test_the_document_is_valid(functions: dict[str, Any]) -> None:
    described = await document(Api(functions))

    OpenAPIV31SpecValidator(described).validate()


async def test_it_is_that_of_the_version_that_runs_also_if_another_one_is_installed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await document()
    api = Api()
    (tmp_path / "openapi.json").write_text('{"info": {}, "paths": {}, "components": {}}')
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    monkeypatch.setattr(metadata, "version", lambda _: "another one")

    assert await document(api) == before


@pytest.mark.parametrize("has_metrics", [False, True])
async def test_its_paths_and_methods_are_those_of_the_application(*, has_metrics: bool) -> None:
    api = Api(metrics=FakeMetrics() if has_metrics else None)
    described = await document(api)

    served = {
        (str(rule).replace("<uuid:job_id>", "{id}"), method.lower())
        for rule in api.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")  # every path has them
        if str(rule) != "/" and not str(rule).startswith("/ui")  # the page is for people
    }
    assert served == {
        (path, method)
        for path, operations in described["paths"].items()
        for method in operations
        if method != "parameters"
    }


async def test_its_lists_and_limits_are_those_of_the_code() -> None:
    components = (await document())["components"]

    job = components["schemas"]["Job"]["properties"]
    assert job["status"]["enum"] == list(JobStatus)
    assert job["outcome"]["enum"] == list(Outcome)
    parameters = components["parameters"]
    assert parameters["Status"]["schema"]["items"] == job["status"]
    assert parameters["Outcome"]["schema"]["items"] == job["outcome"]
    assert parameters["Limit"]["schema"]["maximum"] == MAX_LIMIT


async def test_every_error_of_the_table_is_described() -> None:
    described = await document()

    statuses = {
        status
        for operations in described["paths"].values()
        for name, operation in operations.items()
        if name != "parameters"
        for status in operation["responses"]
    }
    assert statuses >= {
        str(s) for s in (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 500, 503)
    }


def validator(described: dict[str, Any], name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.mark.parametrize(
    "submission",
    [
        {"type": "ship", "payload": {"to": {"street": "a", "number": 1}, "weight": 1.5}},
        {"type": "ship", "payload": {"to": {"street": "a", "number": "1"}, "weight": 1.5}},
        {"type": "ship", "payload": None},
        {"type": "ship"},
        {"type": "resize"},
        {"type": "resize", "payload": 7},
        {"type": "resize", "payload": "7"},
        {"type": "weigh", "payload": {"parcel": {"to": {"street": "a", "number": 1}, "weight": 1}}},
        {"type": "weigh", "payload": {"parcel": {"to": {"street": "a", "number": 1}}}},
        {"type": "weigh", "payload": {"scale": "new", "times": 2}},
        {"type": "weigh"},
        {"type": "tidy"},
        {"type": "tidy", "payload": {}},
        {"type": "tidy", "payload": {"_depth": 4}},
        {"type": "other"},
        {"type": "default", "payload": []},
        {"type": ""},
        {"type": 7},
        {},
        {"type": "other", "more": 1},
        {"type": "other", "delay": 0},
        {"type": "other", "delay": 315_619_200},
        {"type": "other", "delay": 315_619_201},
        {"type": "other", "delay": -1},
        {"type": "other", "delay": True},
        {"type": "other", "delay": None},
        {"type": "other", "run_at": "2026-12-01T08:00:00.5+01:00"},
        {"type": "other", "run_at": 5},
        {"type": "other", "run_at": None},
        {"type": "other", "delay": 1, "run_at": "2026-12-01T08:00:00Z"},
        [],
    ],
)
async def test_a_submission_is_taken_if_the_document_says_so(submission: object) -> None:
    functions: dict[str, Any] = {
        "ship": ship,
        "resize": resize,
        "weigh": weigh,
        "tidy": tidy,
        "default": accept,
    }
    api = Api(functions)

    answer = await api.client.post("/jobs", msgspec.json.encode(submission))

    valid = validator(await document(api), "Submission").is_valid(submission)
    assert valid == (answer.status == 201), answer


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"outcome": ["failed", "timed_out", "cancelled"], "type": ["a"], "limit": 1},
        {"outcome": ["failed", "failed"]},
        {"outcome": []},
        {"outcome": ["succeeded"]},
        {"outcome": None},
        {"type": []},
        {"type": [""]},
        {"type": "a"},
        {"limit": 0},
        {"limit": 2**70},
        {"limit": True},
        {"limit": "1"},
        {"status": "completed"},
        [],
    ],
)
async def test_filters_are_taken_if_the_document_says_so(filters: object) -> None:
    api = Api()

    answer = await api.client.post("/jobs/rerun", msgspec.json.encode(filters))

    valid = validator(await document(api), "RerunFilters").is_valid(filters)
    assert valid == (answer.status == 201), answer


async def test_answers_are_as_the_document_says() -> None:
    api = Api(parts=make_parts(buffer_size=3))
    described = await document(api)

    def check(answer: Answer, name: str) -> None:
        validator(described, name).validate(answer.json())

    submitted = await api.client.post("/jobs", SUBMISSION)
    check(submitted, "BriefJob")
    target = submitted.headers["location"]
    job_id = submitted.json()["id"]
    check(await api.client.get(target), "Job")
    api.parts.workers.claim(job_id)
    check(await api.client.get(target), "Job")
    error = JobError(type="ValueError", message="no")
    api.parts.workers.complete(job_id, Ending(outcome=Outcome.FAILED, error=error))
    check(await api.client.get(target), "Job")
    again = await api.client.post(f"{target}/rerun")
    check(again, "BriefJob")
    check(await api.client.get(target), "Job")
    check(await api.client.get(again.headers["location"]), "Job")
    check(await api.client.post("/jobs/rerun", b"{}"), "Accepted")
    for job in (await api.client.get("/jobs")).json():
        validator(described, "BriefJob").validate(job)
    check(await api.client.post("/jobs/stream", SUBMISSION), "Accepted")
    check(await api.client.get("/health"), "Health")
    check(await api.client.get("/health/ready"), "PoolStatus")
    for problem in (
        assert_problem(await api.client.post("/jobs/batch", b"[0]"), 400),
        assert_problem(await api.client.post("/jobs/stream", b"x"), 400),
        assert_problem(await api.client.post(f"{target}/cancel"), 409),
        assert_problem(await api.client.post("/jobs/batch", b"[" + b"0," * 9 + b"0]"), 400),
    ):
        validator(described, "Problem").validate(problem)

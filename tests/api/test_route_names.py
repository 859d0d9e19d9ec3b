"""The names of routes by which requests are counted."""

import re

import pytest

from tests.api.support import Api
from trio_jobs.api.route_names import NO_ROUTE, route_names

ID = "01a227b1-f1d4-7039-80e2-f12f83cc21be"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/jobs", "/jobs"),
        ("/jobs/batch", "/jobs/batch"),
        (f"/jobs/{ID}", "/jobs/{id}"),
        (f"/jobs/{ID.upper()}", "/jobs/{id}"),
        (f"/jobs/{ID}/cancel", "/jobs/{id}/cancel"),
        ("/health/ready", "/health/ready"),
        ("/", "/"),
        ("", NO_ROUTE),
        ("/jobs/", NO_ROUTE),
        ("/jobs/4711", NO_ROUTE),
        (f"/jobs/{ID}\n", NO_ROUTE),
        (f"//jobs/{ID}", NO_ROUTE),
        (f"/jobs/{ID}/{ID}", NO_ROUTE),
        ("/{id}", NO_ROUTE),
        ("*", NO_ROUTE),
    ],
)
async def test_path_has_the_name_of_its_route(path: str, name: str) -> None:
    assert route_names(Api().app.url_map)(path) == name


async def test_each_route_finds_its_own_name() -> None:
    routes = Api().app.url_map
    name_of = route_names(routes)

    for route in routes.iter_rules():
        name = re.sub(r"<uuid:job_id>", "{id}", route.rule)
        assert name_of(re.sub(r"<uuid:job_id>", ID, route.rule)) == name

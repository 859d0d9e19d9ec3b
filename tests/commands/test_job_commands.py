"""What `list`, `cancel` and `rerun` ask the server for."""

import json

import pytest

from tests.commands.support import JOB_ID, Answer, call, ended, scripted_server


def test_wanted_pages_of_a_list_are_read_by_their_places(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = b'[{"id":"%s"},{"id":"b"}]' % JOB_ID.encode()
    answers = [
        Answer(body=first, headers={"Link": '</mount/jobs?limit=5&after=p%2B1>; rel="next"'}),
        Answer(body=b'[{"id":"c"}]'),
        Answer(body=first, headers={"Link": '</jobs?after=x>; rel="next"'}),
        Answer(body=b"[]"),
        Answer(body=b"[%s1]" % (b"1," * 99), headers={"Link": '</jobs?after=x>; rel="next"'}),
    ]
    with scripted_server(*answers) as server:
        url = ["--url", server.url]
        assert call("list", "--limit=5", "--type=a&b", "--status=pending", *url) == 0
        assert call("list", "--failed", "--limit=2", "--since=1h", *url) == 0
        assert call("list", "--limit=all", *url) == 0
        assert call("list", *url) == 0

    paths = [request.path for request in server.requests]
    assert paths[0] == "/jobs?order=newest&type=a%26b&status=pending&limit=5"
    assert paths[1] == "/jobs?order=newest&type=a%26b&status=pending&limit=3&after=p%2B1"
    assert paths[2].startswith(
        "/jobs?outcome=failed&outcome=timed_out&order=ended&rerun=no&since=20"
    )
    assert paths[3] == "/jobs?order=newest&limit=1000"
    captured = capsys.readouterr()
    assert paths[4] == "/jobs?order=newest&limit=100"
    assert captured.out.count("\n") == 5 + 100
    # Who has named a limit knows it.
    assert captured.err == (
        "trio-jobs: these are 100 jobs, and there are more: --limit shows them\n"
    )


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (["cancel", "--type=a", "--type=b"], "/jobs/cancel", {"type": ["a", "b"]}),
        (["cancel", "--pending"], "/jobs/cancel", {"status": ["pending"]}),
        (
            ["cancel", "--pending", "--type=a"],
            "/jobs/cancel",
            {"type": ["a"], "status": ["pending"]},
        ),
        (["rerun", "--failed"], "/jobs/rerun", {}),
        (["rerun", "--failed", "--type=a"], "/jobs/rerun", {"type": ["a"]}),
        (["cancel", JOB_ID], f"/jobs/{JOB_ID}/cancel", None),
        (["rerun", JOB_ID.upper()], f"/jobs/{JOB_ID}/rerun", None),
    ],
)
def test_one_job_and_many_have_their_requests(
    arguments: list[str], path: str, body: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(Answer(body=ended('"outcome":"failed"'), status=201)) as server:
        assert call(*arguments, "--url", server.url) == 0

    [request] = server.requests
    assert (request.method, request.path) == ("POST", path)
    assert (json.loads(request.body) if request.body else None) == body


@pytest.mark.parametrize(
    "arguments",
    [
        ["cancel"],
        ["cancel", JOB_ID, "--pending"],
        ["rerun"],
        ["rerun", "--type=a"],
        ["rerun", JOB_ID, "--failed"],
        ["rerun", JOB_ID, "--type=a"],
    ],
)
def test_ids_and_filters_exclude_each_other(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    assert f"{arguments[0]} needs ids" in capsys.readouterr().err


def test_a_bare_wait_before_the_type_is_told_from_a_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        call("submit", "--wait", "email")
    assert "got 'email'; TYPE and PAYLOAD stand before --wait" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "\udcfc"),
        ("list", "--type=\udcfc"),
        ("cancel", "--type=\udcfc"),
        ("rerun", "--failed", "--type=\udcfc"),
        ("tail", "--type=\udcfc"),
        ("run", "-", "--type=\udcfc"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_type_that_is_no_unicode_is_one_line(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(*arguments)
    assert "expected the type of a job in UTF-8, got '\\udcfc'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["../pool", "counts", "", JOB_ID[:-1], f"{JOB_ID}/cancel"])
def test_what_is_no_id_never_becomes_a_path(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("status", text)
    assert "expected the id of a job" in capsys.readouterr().err

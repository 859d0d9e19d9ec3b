"""Tracing under the command: a provider of the handlers' module, a process, the missing extra."""

import json
from pathlib import Path

from tests.command import MODULE, patched, run_command, running_command

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"

WORK = """
import os
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
lines = open("spans", "a", buffering=1)
exporter = ConsoleSpanExporter(out=lines, formatter=lambda span: span.to_json(None) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("work")


async def here(payload):
    with tracer.start_as_current_span("inside"):
        pass


def in_a_process(payload):
    with tracer.start_as_current_span("inside"):
        pass
    return os.getpid()
"""
PLAIN = """
import sys


async def imported(payload):
    return sorted({each.partition(".")[0] for each in sys.modules} & {"opentelemetry"})


def in_a_process(payload):
    return sorted({each.partition(".")[0] for each in sys.modules} & {"opentelemetry"})
"""
CONFIG = """
[tracing]
enabled = true

[handlers]
here = "work:here"
in_a_process = {call = "work:in_a_process", run = "process"}
"""


async def test_spans_of_a_request_its_attempt_and_the_handler_belong_together(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=WORK) as server:
        for type_ in ("here", "in_a_process"):
            answer = await server.client.post(
                "/jobs",
                json={"type": type_},
                headers={"traceparent": TRACEPARENT, "Prefer": "wait=20"},
            )
            assert answer.json()["outcome"] == "succeeded"
            assert answer.json()["trace_id"] == TRACE

    spans = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    for type_ in ("here", "in_a_process"):
        [run] = [each for each in spans if each["name"] == f"run {type_}"]
        [submit] = [each for each in spans if each["name"] == f"submit {type_}"]
        [inside] = [each for each in spans if each["parent_id"] == run["context"]["span_id"]]
        assert submit["context"]["trace_id"] == f"0x{TRACE}"
        assert run["links"][0]["context"]["span_id"] == submit["context"]["span_id"]
        assert inside["name"] == "inside"
        assert inside["context"]["trace_id"] == run["context"]["trace_id"]


async def test_server_without_tracing_imports_nothing_for_it_and_a_child_never_does(
    tmp_path: Path,
) -> None:
    handlers = '[handlers]\nimported = "work:imported"\n'
    handlers += 'in_a_process = {call = "work:in_a_process", run = "process"}\n'
    found = {}
    for enabled in ("false", "true"):
        config = f"[tracing]\nenabled = {enabled}\n{handlers}"
        async with running_command(tmp_path, config=config, handlers=PLAIN) as server:
            for type_ in ("imported", "in_a_process"):
                answer = await server.client.post(
                    "/jobs", json={"type": type_}, headers={"Prefer": "wait=20"}
                )
                found[enabled, type_] = answer.json()["result"]

    assert found == {
        ("false", "imported"): [],
        ("false", "in_a_process"): [],
        ("true", "imported"): ["opentelemetry"],
        ("true", "in_a_process"): [],
    }


async def test_tracing_without_its_extra_is_refused(tmp_path: Path) -> None:
    missing = patched("sys.modules['opentelemetry'] = None")
    for arguments in ((), ("--check",)):
        ended = await run_command(
            tmp_path, *arguments, config=CONFIG, handlers=PLAIN, command=missing
        )
        assert ended.status == 2
        [line] = ended.lines
        assert line.startswith(
            "trio-jobs: config.toml: tracing.enabled: the extra `otel` cannot be imported: "
        )


async def test_trace_in_a_file_is_that_of_the_attempt_after_a_restart(tmp_path: Path) -> None:
    config = CONFIG.replace("[tracing]", "[store]\npath = 'jobs.db'\n\n[tracing]")
    async with running_command(tmp_path, config=config, handlers=WORK) as server:
        answer = await server.client.post(
            "/jobs",
            json={"type": "here", "delay": 1},
            headers={"traceparent": TRACEPARENT},
        )
        job = answer.json()["id"]
        server.process.kill()
        await server.wait_exit()
    async with running_command(tmp_path, config=config, handlers=WORK, command=MODULE) as server:
        shown = await server.client.get(f"/jobs/{job}", headers={"Prefer": "wait=20"})

    assert (shown.json()["outcome"], shown.json()["trace_id"]) == ("succeeded", TRACE)
    spans = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    [submit] = [each for each in spans if each["name"] == "submit here"]
    [run] = [each for each in spans if each["name"] == "run here"]
    assert run["links"][0]["context"]["span_id"] == submit["context"]["span_id"]

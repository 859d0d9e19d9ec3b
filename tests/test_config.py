"""The configuration: what is read, which source wins, and what each refusal says."""

import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import (
    SETTINGS,
    Config,
    ConfigError,
    HandlerSettings,
    HttpSettings,
    PoolSettings,
    RetrySettings,
    closed,
)
from trio_jobs.config import describe, load_config
from trio_jobs.setting_type import ADDRESSES, build

SHIPPED = Path(__file__).parent.parent / "config.toml"
INTEGER = "an integer from 1 to 100000"
INTEGER_OR_0 = "an integer from 0 to 10000000"
SECONDS = "a number of seconds from 0 to 604800"
TEXT = "a non-empty string without control characters"
LEVELS = "one of 'debug', 'error', 'info', 'warning'"
MODE = "an octal mode in quotes like '0660', of 6 (may connect) and 0 (may not)"
FUNCTION = "a function's name like 'package.module:function'"
PATHS = "a path of names like 'card.number', or an array of these"
SET_IN_THE_FILE = "handlers are set in the [handlers] table of the configuration file"
KNOWN = (
    "known: call, run, timeout, max_running, repeatable, max_interruptions, paused, spread, hide,"
    " retry"
    " (a type with a dot in it is written in quotes)"
)
TIMEOUT = "a number of seconds from 0.001 to 604800"
RETRY = "known: attempts, backoff, base, factor, cap, jitter, on, never"
BACKOFF = "'exponential', 'constant' or a non-empty array of seconds up to 604800"
EXCEPTIONS = "array of exceptions' names like 'OSError' or 'package.module.Class'"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a folder of its own, so that `config.toml` is what the user would type."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(
    text: str | bytes | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str | None] | None = None,
) -> Config:
    if text is not None:
        Path("config.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(None, environment=environment or {}, overrides=overrides or {})


def refusal(
    text: str | bytes | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, str | None] | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, environment=environment, overrides=overrides)
    message = str(caught.value)
    assert message.isprintable()  # so it is one line
    assert len(message) < 300
    return message


def variable(path: str) -> str:
    return f"TRIO_JOBS_{path.replace('.', '_').upper()}"


def value(path: str, config: Config) -> object:
    return attrgetter(f"{path}_" if path == "lifespan.async" else path)(config)


class TestDefaults:
    """What holds when nothing is set."""

    @pytest.mark.parametrize("text", [None, "", "[pool]\n[http]\n"])
    def test_without_anything_the_defaults_hold(self, text: str | None) -> None:
        config = load(text)

        assert config == Config()
        assert config.warnings == ()
        assert (config.source is None) is (text is None)
        for path, setting in SETTINGS.items():
            assert value(path, config) == setting.default

    @pytest.mark.parametrize("path", SETTINGS)
    def test_each_default_is_in_its_range(self, path: str) -> None:
        setting = SETTINGS[path]

        assert setting.convert(setting.default, where=path) == setting.default

    def test_a_configuration_cannot_be_changed(self) -> None:
        config = load('[handlers]\nemail = "myapp:send"')

        with pytest.raises(FrozenInstanceError):
            config.pool.workers = 3  # type: ignore[misc]  # that is what is tested
        with pytest.raises(TypeError):
            config.handlers["email"] = HandlerSettings(call="x:y")  # type: ignore[index]  # the same


class TestShippedFile:
    """The `config.toml` of the repository, which is the reference of the keys."""

    def test_it_gives_exactly_the_defaults_and_the_demonstration_handler(self) -> None:
        config = load_config(SHIPPED, environment={}, overrides={})

        demonstration = {"default": HandlerSettings(call="trio_jobs.demo:simulate_work")}
        assert config == Config(handlers=demonstration)
        assert config.source == SHIPPED

    @pytest.mark.parametrize("path", SETTINGS)
    def test_it_names_each_setting_and_the_comment_states_default_and_range(
        self, path: str
    ) -> None:
        section, _, name = path.partition(".")
        text = SHIPPED.read_text().partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        stated = re.search(
            rf"((?:^#.*\n)+)# Default: (.+)\n(# )?{name} = (.+)$", text, re.MULTILINE
        )

        assert stated is not None
        # An optional setting, which has no value by default, is commented out.
        assert bool(stated[3]) is (SETTINGS[path].default is None)
        assert stated[3] or stated[2] == stated[4]
        if bounds := re.search(r"from ([0-9.]+) to ([0-9.]+)", SETTINGS[path].values):
            comment = stated[1].replace(",", "").replace("\n# ", " ")
            low, high = bounds.groups()
            assert f"{low} to {high}" in comment or f"{low} (none) to {high}" in comment


class TestSources:
    """Command line over environment over file over default, and each of them checked."""

    def test_each_source_goes_over_the_next(self) -> None:
        config = load(
            "[pool]\nworkers = 3\nbuffer_size = 30\ngrace_period = 7",
            environment={"TRIO_JOBS_POOL_WORKERS": "4", "TRIO_JOBS_POOL_BUFFER_SIZE": "50"},
            overrides={"pool.workers": "5", "pool.buffer_size": None},  # not given
        )

        assert config.pool == PoolSettings(workers=5, buffer_size=50, grace_period=7.0)
        assert config.source == Path("config.toml")

    def test_a_wrong_value_is_refused_where_it_stands_though_overridden(self) -> None:
        right, wrong = {"http.bind": "127.0.0.1:0"}, {"TRIO_JOBS_HTTP_BIND": "8080"}

        in_file = refusal('http.bind = "8080"', overrides=right)
        in_environment = refusal("", environment=wrong, overrides=right)
        on_the_command_line = refusal(overrides={"http.bind": "8080"})

        assert in_file == f"config.toml: http.bind must be {ADDRESSES}, got '8080'"
        assert in_environment == f"TRIO_JOBS_HTTP_BIND must be {ADDRESSES}, got '8080'"
        assert on_the_command_line == f"--bind must be {ADDRESSES}, got '8080'"

    @pytest.mark.parametrize("path", SETTINGS)
    def test_each_setting_can_be_set_by_the_variable_of_its_name(self, path: str) -> None:
        texts = {"http.bind": "a:1", "http.unix_mode": "0660", "http.access_log": "yes"}
        texts |= {
            "http.ui": "no",
            "http.payloads": "control",
            "logging.level": "debug",
            "logging.format": "json",
        }
        texts |= {"http.max_header_bytes": "2048", "http.secure_cookie": "yes"}
        texts |= {"metrics.enabled": "yes", "metrics.open": "yes"}
        texts |= {"tracing.enabled": "yes", "tracing.parent": "child"}
        texts |= {"pool.drain": "all", "store.sync": "normal"}
        texts |= dict.fromkeys(("store.url", "store.listen_url"), "postgresql://localhost/shop")
        texts |= {"pool.async_handlers": "asyncio", "pool.asyncio_loop": "uvloop"}
        texts |= {path: "shop:lifespan" for path in SETTINGS if path.startswith("lifespan.")}
        text = texts.get(path, "7")

        config = load(environment={variable(path): text})

        assert value(path, config) != SETTINGS[path].default
        assert load(overrides={path: text}) == config


class TestValues:
    """What a value may be, and what the refusal of any other says."""

    @pytest.mark.parametrize(
        ("text", "path", "expected"),
        [
            ("pool.workers = 1", "pool.workers", 1),
            ("pool.workers = 100_000", "pool.workers", 100_000),
            ("pool.workers = 0x10", "pool.workers", 16),
            ("pool.grace_period = 0", "pool.grace_period", 0.0),
            ("pool.grace_period = 0.25", "pool.grace_period", 0.25),
            ('http.bind = "[::1]:0"', "http.bind", ("[::1]:0",)),
            ('http.bind = ["a:0", "unix:/run/j"]', "http.bind", ("a:0", "unix:/run/j")),
            ('logging.level = "INFO"', "logging.level", "info"),
            *((f'http.unix_mode = "{mode}"', "http.unix_mode", mode) for mode in ("660", "0770")),
        ],
    )
    def test_in_the_file_it_may_be(self, text: str, path: str, expected: object) -> None:
        found = value(path, load(text))

        assert (found, type(found)) == (expected, type(expected))

    @pytest.mark.parametrize(
        ("path", "text", "expected"),
        [
            ("pool.processes", "4", 4),
            ("pool.grace_period", "30", 30.0),
            ("pool.grace_period", "0.25", 0.25),
            ("http.bind", "127.0.0.1:0, [::1]:0,unix:/j", ("127.0.0.1:0", "[::1]:0", "unix:/j")),
            ("http.allowed_hosts", "a,b", ("a", "b")),
            ("http.allowed_hosts", "1", ("1",)),
            ("http.token", "Yes", "Yes"),
            ("http.unix_mode", "0666", "0666"),
            ("logging.level", "Info", "info"),
            *(("http.access_log", text, True) for text in ("true", "TRUE", "1", "yes", "On")),
            *(("http.access_log", text, False) for text in ("False", "0", "no", "off")),
        ],
    )
    def test_as_text_it_may_be(self, path: str, text: str, expected: object) -> None:
        found = value(path, load(environment={variable(path): text}))

        assert (found, type(found)) == (expected, type(expected))
        assert value(path, load(overrides={path: text})) == expected

    @pytest.mark.parametrize(
        ("path", "expected", "wrong"),
        [
            ("pool.workers", INTEGER, ["0", "1.5", "4.0", "100001"]),
            ("pool.buffer_size", "an integer from 1 to 10000000", ["0", "1.5", "10000001"]),
            ("pool.max_waiting", INTEGER_OR_0, ["1.5", "10000001"]),
            ("pool.grace_period", SECONDS, ["-0.1", "604801", "1e999"]),
            ("store.keep_completed", INTEGER_OR_0, ["1.5", "10000001"]),
            ("store.keep_failed", INTEGER_OR_0, ["1.5", "10000001"]),
        ],
    )
    def test_wrong_numbers_in_the_file_are_refused(
        self, path: str, expected: str, wrong: list[str]
    ) -> None:
        wrong_for_all = ["-1", '"4"', '"abc"', "true", "false", "1000000000", "inf", "-inf", "nan"]
        wrong_for_all += ["[]", "[4]", "{}", "2026-01-01", '""', '"null"', "9" * 4000]

        for text in wrong + wrong_for_all:
            message = refusal(f"{path} = {text}")

            assert message.startswith(f"config.toml: {path} must be {expected}, got ")

    @pytest.mark.parametrize(
        ("path", "expected", "wrong"),
        [
            # A number: 0o660 is 432, and 660 is not. A mode for nobody, for readers, with a sticky
            # bit; what is no mode.
            ("http.unix_mode", MODE, '0o660 660 "" "0000" "0640" "1660" "06600" "0860" "0o660"'),
            ("http.unix_mode", MODE, '"rw-rw----" "0660\\n" true []'),
            ("http.access_log", "true or false", '1 0 "true" "yes"'),
            ("http.bind", ADDRESSES, '"" [] [""] 8080 ["a:0",1] "a:0\\n" {} "8080" ":80" "a:x"'),
            ("http.bind", ADDRESSES, f'"a:65536" "unix:" "unix:j.sock" "unix:/{"x" * 200}"'),
            ("http.bind", ADDRESSES, '"[::1::]:80" "::1:80" ["a:0","b"] "unix:/\\u0080"'),
            ("handlers.a", FUNCTION, '"" "m.f" "m:" ":f" "m-y:f" "m:f()" 3 [] "m:f\\n" "a..b:c"'),
            ("handlers.a", FUNCTION, '"a:b:c" "a/b.py:c" "a:1b"'),
        ],
    )
    def test_other_wrong_values_in_the_file_are_refused(
        self, path: str, expected: str, wrong: str
    ) -> None:
        for text in wrong.split():
            message = refusal(f"{path} = {text}")

            assert message.startswith(f"config.toml: {path} must be {expected}, got ")

    @pytest.mark.parametrize(
        "text",
        [
            *("", " ", "0", "-1", "1.5", "4.0", " 4", "4 ", "4\n", "+4", "0x10", "1_000", "1e3"),
            *("٤", "four", "true", "null", "None", "1000000000", "9" * 5000, "\udcff", "--4", "4;"),
        ],
    )
    def test_wrong_integers_in_the_environment_and_on_the_command_line_are_refused(
        self, text: str
    ) -> None:
        in_environment = refusal(environment={"TRIO_JOBS_POOL_WORKERS": text})
        on_command_line = refusal(overrides={"pool.workers": text})

        assert in_environment.startswith(f"TRIO_JOBS_POOL_WORKERS must be {INTEGER}, got '")
        assert on_command_line.startswith(f"--workers must be {INTEGER}, got '")

    @pytest.mark.parametrize(
        ("path", "expected", "wrong"),
        [
            (
                "pool.grace_period",
                SECONDS,
                ["", "inf", "nan", "-0.1", "1e3", ".5", "5.", "1,5", "25s", "604801", "1_0.0"],
            ),
            (
                "http.access_log",
                "true or false",
                ["", "y", "t", "2", "01", "1.0", " true", "none", "enabled"],
            ),
            ("pool.max_waiting", INTEGER_OR_0, ["", "-1", "1.0", "1e3", "10000001", "none"]),
            ("store.keep_failed", INTEGER_OR_0, ["", "-1", "1.0", "1e3", "10000001", "none"]),
            ("http.bind", ADDRESSES, ["", ",", "127.0.0.1:0,"]),
            ("http.certfile", TEXT, [""]),
            ("http.allowed_hosts", "a string or an array of strings", ["a,"]),
            ("http.send_timeout", "a number of seconds from 0.1 to 604800", ["0"]),
            ("logging.level", LEVELS, ["Verbose", ""]),
            ("logging.format", "one of 'json', 'text'", [""]),
        ],
    )
    def test_other_wrong_texts_are_refused(
        self, path: str, expected: str, wrong: list[str]
    ) -> None:
        for text in wrong:
            message = refusal(environment={variable(path): text})

            assert message == f"{variable(path)} must be {expected}, got {text!r}"

    @given(
        st.sampled_from([path for path in SETTINGS if not SETTINGS[path].secret]),
        st.text(st.characters()),
    )
    # One folder for all examples will do.
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_any_text_is_either_read_back_alike_or_refused(self, path: str, text: str) -> None:
        try:
            config = load(environment={variable(path): text})
        except ConfigError as error:
            message = str(error)
        else:
            Path("effective.toml").write_text(describe(config), encoding="utf-8")
            assert config == load_config(Path("effective.toml"), environment={}, overrides={})
            return

        assert message.startswith(f"{variable(path)} must be ")
        assert message.isprintable()

    def test_a_long_value_is_cut_and_its_line_breaks_are_escaped(self) -> None:
        message = refusal('pool.workers = """' + "x\n" * 5000 + '"""')

        assert "got 'x\\nx\\n" in message
        assert "..." in message

    def test_a_value_that_python_cannot_show_is_refused_like_any_other(self) -> None:
        integer = refusal(f"pool.workers = 0x{'f' * 9000}")
        table = refusal(f"pool.{'.'.join('x' * 3000)} = 1")

        assert integer.endswith("got a value of type int that is too large to show")
        assert "pool.x is not a setting" in table

    def test_a_refused_secret_is_not_shown(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environment={"TRIO_JOBS_HTTP_TOKEN": "s3cret\n"})

        assert str(caught.value) == (
            f"TRIO_JOBS_HTTP_TOKEN must be {TEXT}, got a value that is not shown here"
        )
        assert caught.value.__context__ is None

    def test_a_section_is_made_of_checked_arguments(self) -> None:
        made = build(PoolSettings, workers=3, processes=None)

        assert made == PoolSettings(workers=3)
        with pytest.raises(ValueError, match=r"^workers must be an integer from 1 .*, got True$"):
            build(PoolSettings, workers=True)


class TestNames:
    """Names that are not known, in each source."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[pool]\nwokers = 3", "pool.wokers is not a setting, the nearest is pool.workers"),
            (
                "[http]\nbuffer_size = 3",
                "http.buffer_size is not a setting, the nearest is pool.buffer_size",
            ),
            ("[http]\nport = 80", "http.port is not a setting, the nearest is http.bind"),
            ("[pool]\nzzz = 3", "pool.zzz is not a setting"),
            ("[pol]\nworkers = 3", "pol is not a section, the nearest is pool"),
            ("workers = 3", "workers is not a section, the nearest is pool.workers"),
            ("port = 80", "port is not a section, the nearest is http.bind"),
            (
                "[server]\nport = 80",
                (
                    "server is not a section, known: pool, http, store, logging, metrics, tracing,"
                    " lifespan, handlers"
                ),
            ),
            ("pool = 3", "pool must be a table [pool], got 3"),
            ("[pool.workers]\nn = 3", f"pool.workers must be {INTEGER}, got {{'n': 3}}"),
            ("[[http]]\nbind = 'x'", "http must be a table [http], got an array"),
            ("handlers = 'x:y'", "handlers must be a table [handlers], got 'x:y'"),
            ('pool."work\\ners" = 3', "pool.'work\\ners' is not a setting, the nearest is"),
            (f"pool.{'w' * 5000} = 3", "pool.wwww"),
        ],
    )
    def test_an_unknown_name_in_the_file_is_refused_with_the_nearest_one(
        self, text: str, message: str
    ) -> None:
        assert refusal(text).startswith(f"config.toml: {message}")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("POOL_WROKERS", "is not a setting, the nearest is TRIO_JOBS_POOL_WORKERS"),
            ("POOL_XYZ", "is not a setting"),
            ("POOL_", "is not a setting"),
            ("HTTP_PORT", "is not a setting, the nearest is TRIO_JOBS_HTTP_BIND"),
            ("HANDLERS_EMAIL", f"is not a setting, {SET_IN_THE_FILE}"),
        ],
    )
    def test_an_unknown_variable_of_a_known_section_is_refused(
        self, name: str, message: str
    ) -> None:
        assert refusal(environment={f"TRIO_JOBS_{name}": "4"}) == f"TRIO_JOBS_{name} {message}"

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("WORKERS", ", the nearest is TRIO_JOBS_POOL_WORKERS"),
            ("Pool_workers", ", the nearest is TRIO_JOBS_POOL_WORKERS"),
            ("LEVEL", ", the nearest is TRIO_JOBS_LOGGING_LEVEL"),
            ("PORT", ", the nearest is TRIO_JOBS_HTTP_BIND"),
            ("CONFIG", ", the option --config names the file"),
            ("TOKEN", ", the nearest is TRIO_JOBS_HTTP_TOKEN"),
            *(("VERSION", ""), ("POOL", ""), ("", ""), ("É\n", "")),
        ],
    )
    def test_another_variable_that_begins_like_ours_gives_a_warning(
        self, name: str, hint: str
    ) -> None:
        config = load(environment={f"TRIO_JOBS_{name}": "4"})

        assert config == Config()
        [warning] = config.warnings
        assert warning.endswith(f"is not a setting and has no effect{hint}")
        assert warning.isprintable()

    def test_a_variable_of_someone_else_is_not_looked_at(self) -> None:
        names = ("TRIO_JOBSPOOL_WORKERS", "PATH", "trio_jobs_pool_x", "TRIO_JOBS_URL")
        config = load(environment=dict.fromkeys(names, ""))

        assert config == Config()
        assert config.warnings == ()


class TestKubernetes:
    """Variables that look like ours and come from the orchestrator."""

    @pytest.mark.parametrize("service", ["", "HTTP_", "POOL_", "HANDLERS_", "POOL_WORKERS_", "X_"])
    def test_the_variables_of_a_service_are_ignored(self, service: str) -> None:
        address = "tcp://10.0.0.1:8080"
        variables = {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "8080",
            "SERVICE_PORT_HTTP": "8080",
            "SERVICE_PORT_HTTP_ADMIN": "8081",
            "PORT": address,
            "PORT_8080_TCP": address,
            "PORT_8080_TCP_PROTO": "tcp",
            "PORT_8080_TCP_PORT": "8080",
            "PORT_8080_TCP_ADDR": "10.0.0.1",
            "PORT_53_UDP": "udp://[fd00::1]:53",
        }

        config = load(
            environment={f"TRIO_JOBS_{service}{name}": text for name, text in variables.items()}
        )

        assert config == Config()
        assert config.warnings == ()

    @pytest.mark.parametrize("name", ["POOL_SERVICE", "HTTP_PORT_X_TCP", "HTTP_EXPORT"])
    def test_what_only_resembles_them_is_refused(self, name: str) -> None:
        assert "is not a setting" in refusal(environment={f"TRIO_JOBS_{name}": "tcp://10.0.0.1:1"})


class TestFile:
    """Files that cannot be read, or not as TOML."""

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("gone.toml", "got: No such file or directory"),  # not taken for absent
            (".", "got: Is a directory"),
            ("/dev/zero", "got: more than 1048576 bytes"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_refused(self, target: str, message: str) -> None:
        Path("config.toml").symlink_to(target)

        assert refusal() == f"config.toml: must be a readable file, {message}"

    def test_a_file_in_a_folder_of_another_user_is_not_taken_for_absent(
        self, tmp_path: Path
    ) -> None:
        with closed(tmp_path):
            text = refusal()

        assert text == "config.toml: must be a readable file, got: Permission denied"

    def test_a_device_without_content_is_an_empty_file(self) -> None:
        Path("config.toml").symlink_to("/dev/null")

        assert load() == Config()

    def test_a_file_that_was_named_must_be_there(self) -> None:
        with pytest.raises(ConfigError, match=r"^conf/jobs\.toml: must be a readable file, got"):
            load_config(Path("conf/jobs.toml"), environment={}, overrides={})

    def test_a_file_that_was_named_is_named_so_in_messages(self, tmp_path: Path) -> None:
        path = tmp_path / "odd\nname.toml"
        path.write_text("pool.workers = 0")

        with pytest.raises(ConfigError) as caught:
            load_config(path, environment={}, overrides={})

        assert "odd\\nname.toml': pool.workers must be" in str(caught.value)
        assert str(caught.value).isprintable()

    def test_bytes_that_are_not_utf8_are_refused_with_their_line(self) -> None:
        assert (
            refusal(b"[pool]\n# caf\xe9\n") == "config.toml: must be UTF-8, got byte 0xe9 in line 2"
        )

    def test_a_byte_order_mark_and_windows_line_ends_are_fine(self) -> None:
        assert load(b"\xef\xbb\xbf[pool]\r\nworkers = 3\r\n").pool.workers == 3

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("[pool]\nworkers 3\n", "(at line 2, column 9)"),
            ("[pool]\nworkers = four\n", "Invalid value (at line 2, column 11)"),
            ("[pool]\nworkers = 3\nworkers = 4\n", "Cannot overwrite a value (at line 3, "),
            ("[pool]\n[pool]\n", "Cannot declare ('pool',) twice (at line 2, column 6)"),
            (f"[{'k' * 5000}]\n" * 2, "twice (at line 2, column 5002)"),
            ("pool.workers = null", "Invalid value (at line 1, "),
            (f"pool.workers = {'9' * 5000}", "an integer of too many digits"),
            (f"pool.workers = {'[' * 5000}", "arrays or tables nested too deep"),
        ],
    )
    def test_what_is_no_toml_is_refused_with_its_place(self, text: str, found: str) -> None:
        message = refusal(text)

        assert message.startswith("config.toml: must be TOML, got: ")
        assert found in message


class TestHandlers:
    """The table of job types and functions."""

    def test_they_map_job_types_to_functions(self) -> None:
        composed, decomposed = "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", "gru\u0308n"

        config = load(
            f"""
            [handlers]
            default = "myapp:anything"
            "image.resize" = "myapp.images:Resizer.resize"
            a = "{decomposed}:{decomposed}"
            b.call = "{decomposed}:{decomposed}"

            [handlers.resize]
            call = "myapp.images:resize"
            run = "process"
            timeout = 30
            max_running = 4
            hide = "Card.number"
            """
        )

        # A function's name is read as Python reads it in a program.
        call = f"{composed}:{composed}"
        assert config.handlers == {
            "default": HandlerSettings(call="myapp:anything"),
            "image.resize": HandlerSettings(call="myapp.images:Resizer.resize"),
            "a": HandlerSettings(call=call),
            "b": HandlerSettings(call=call),
            "resize": HandlerSettings(
                call="myapp.images:resize",
                run="process",
                timeout=30.0,
                max_running=4,
                hide=("Card.number",),
            ),
        }

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[handlers]", "[handlers] must name at least one handler, got none"),
            ('handlers."" = "m:f"', "[handlers] takes non-empty job types, got ''"),
            ('handlers."a.b" = 3', f"handlers.'a.b' must be {FUNCTION}, got 3"),
            (
                "handlers.a.timeout = 3",
                "handlers.a must have a function's name as its key call, got none",
            ),
            (
                'handlers.a.call = "m:f"\nhandlers.a.run = "fork"',
                (
                    "handlers.a.run must be one of 'async', 'asyncio', 'process', 'thread',"
                    " 'trio', got 'fork'"
                ),
            ),
            *(
                (
                    f'handlers.a.call = "m:f"\nhandlers.a.timeout = {wrong}',
                    f"handlers.a.timeout must be {TIMEOUT}, got {shown}",
                )
                for wrong, shown in [("0", "0"), ("nan", "nan"), ('"30"', "'30'")]
            ),
            *(
                (
                    f'handlers.a.call = "m:f"\nhandlers.a.max_running = {wrong}',
                    f"handlers.a.max_running must be an integer from 1 to 100000, got {shown}",
                )
                for wrong, shown in [("0", "0"), ("true", "True"), ("1.5", "1.5"), ('"2"', "'2'")]
            ),
            *(
                (
                    f'handlers.a.call = "m:f"\nhandlers.a.hide = {wrong}',
                    f"handlers.a.hide must be {PATHS}, got {shown}",
                )
                for wrong, shown in [('""', "''"), ('["a", "b."]', "['a', 'b.']"), ("7", "7")]
            ),
            (
                'handlers.a.call = "m:f"\nhandlers.a.tiemout = 30',
                f"handlers.a.tiemout is not a setting, the nearest is timeout, {KNOWN}",
            ),
            ("handlers.a.x = 1", f"handlers.a.x is not a setting, {KNOWN}"),
        ],
    )
    def test_a_mistake_in_the_table_is_refused(self, text: str, message: str) -> None:
        assert refusal(text).startswith(f"config.toml: {message}")

    def test_a_table_of_its_own_says_when_a_failed_job_gets_another_attempt(self) -> None:
        text = """
            [handlers.a]
            call = "m:f"
            [handlers.a.retry]
            attempts = 5
            backoff = [5, 60.5]
            on = "OSError"
            never = ["shop.Refused", "shop.errors.Outer.Inner"]
            [handlers.b]
            call = "m:f"
            retry = { attempts = 2, backoff = "Constant", base = 3, jitter = false }
            [handlers.c]
            call = "m:f"
            [handlers.c.retry]
        """

        handlers = load(text).handlers

        assert handlers is not None
        assert [each.retry for each in handlers.values()] == [
            RetrySettings(
                attempts=5,
                backoff=(5.0, 60.5),
                on=("OSError",),
                never=("shop.Refused", "shop.errors.Outer.Inner"),
            ),
            RetrySettings(attempts=2, backoff="constant", base=3.0, jitter=False),
            RetrySettings(attempts=1),
        ]

    @pytest.mark.parametrize(
        ("name", "expected", "wrong"),
        [
            ("attempts", "an integer from 1 to 1000", '0 -1 1001 1.5 2.0 true "5" inf nan []'),
            ("backoff", BACKOFF, '[] "" "linear" 5 true [true] [-1] [nan] [inf] ["5"] [604801] {}'),
            ("base", SECONDS, 'true -1 -0.1 nan inf "1" [1] 604801'),
            ("factor", "a number from 1 to 1000", 'true 0 0.9 -2 nan inf "2" 1001'),
            ("cap", SECONDS, 'true -1 nan inf "1" 604801'),
            ("jitter", "true or false", '0 1 "true" 0.5 []'),
            ("on", f"a non-empty {EXCEPTIONS}", '[] "" [""] 3 true [3] "a-b" "a..b" ".a" "a:b"'),
            ("never", f"an {EXCEPTIONS}", '"" [""] 3 true [3] "a-b" ["OSError","1a"] {}'),
        ],
    )
    def test_a_wrong_value_in_it_is_refused(self, name: str, expected: str, wrong: str) -> None:
        for text in wrong.split():
            message = refusal(f'handlers.a = {{ call = "m:f", retry = {{ {name} = {text} }} }}')

            start = f"config.toml: handlers.a.retry.{name} must be {expected}, got "
            assert message.startswith(start)

    @pytest.mark.parametrize(
        ("retry", "message"),
        [
            ("3", "retry must be a table, got 3"),
            ("[]", "retry must be a table, got []"),
            ('"x"', "retry must be a table, got 'x'"),
            ("true", "retry must be a table, got True"),
            (
                "{ attemps = 3 }",
                f"retry.attemps is not a setting, the nearest is attempts, {RETRY}",
            ),
            ("{ x = 3 }", f"retry.x is not a setting, {RETRY}"),
        ],
    )
    def test_no_table_and_an_unknown_name_in_it_are_refused(self, retry: str, message: str) -> None:
        text = refusal(f'[handlers.a]\ncall = "m:f"\nretry = {retry}')

        assert text == f"config.toml: handlers.a.{message}"

    @pytest.mark.parametrize("name", ["HANDLERS_A_RETRY_ATTEMPTS", "HANDLERS_RETRY"])
    def test_the_environment_has_no_policies(self, name: str) -> None:
        message = refusal(environment={f"TRIO_JOBS_{name}": "3"})

        assert message == f"TRIO_JOBS_{name} is not a setting, {SET_IN_THE_FILE}"


class TestDescribe:
    """The settings in force, as text."""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            SHIPPED.read_text(),
            "pool.grace_period = 0.00001\nstore.keep_completed_bytes = 0",
            'http.bind = ["unix:/tmp/é \\"\\\\ 😀", "[::1]:0"]',
            'handlers."\\u007f\\u0000\\n😀 \\"" = "myapp:é"',
            '[handlers.a]\ncall = "m:f"\nrun = "process"\ntimeout = 3\n[handlers.b]\ncall = "m:g"',
            'handlers.a = { call = "m:f", max_running = 2, hide = ["a.*", "é"] }',
            'handlers.a = { call = "m:f", retry = { backoff = [5, 6.5], never = "é.E" } }',
        ],
    )
    def test_what_it_says_is_read_back_as_the_same_configuration(self, text: str) -> None:
        config = load(text)

        assert load(describe(config)) == config

    def test_it_names_the_file_and_each_setting_that_is_set(self) -> None:
        text = describe(load('pool.workers = 3\nhandlers.email = "myapp:send"'))

        assert text.startswith("# from 'config.toml'\n\n[pool]\nworkers = 3\n")
        assert text.endswith('\n[handlers]\n"email" = "myapp:send"\n')
        assert describe(Config()).startswith("# without a file\n")
        for path, setting in SETTINGS.items():
            section, _, name = path.partition(".")
            lines = text.partition(f"[{section}]")[2].partition("\n[")[0]
            assert (f"\n{name} = " in lines) is (
                path == "pool.workers" or setting.default is not None
            )

    def test_it_leaves_out_what_is_secret(self) -> None:
        text = describe(Config(http=HttpSettings(token="s3cret")))  # noqa: S106  # looked for

        assert "access_log = false" in text
        assert "token" not in text
        assert "s3cret" not in text

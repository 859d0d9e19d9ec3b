"""The configuration: what is read, which source wins, and what each refusal says."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_jobs.config import describe, load_config
from trio_jobs.settings import (
    ADDRESSES,
    SETTINGS,
    Config,
    ConfigError,
    HandlerSettings,
    HttpSettings,
    LoggingSettings,
    PoolSettings,
    StoreSettings,
    build,
)

SHIPPED = Path(__file__).parent.parent / "config.toml"
INTEGER = "an integer from 1 to 100000"
SECONDS = "a number of seconds from 0 to 604800"


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


class TestDefaults:
    """What holds when nothing is set."""

    def test_without_anything_the_defaults_hold(self) -> None:
        config = load()

        assert config == Config(
            pool=PoolSettings(workers=10, buffer_size=100, grace_period=25.0),
            http=HttpSettings(
                bind=("127.0.0.1:8080",),
                max_body_bytes=1_048_576,
                keep_alive_timeout=10.0,
                graceful_timeout=2.0,
            ),
            store=StoreSettings(keep_completed=10_000, keep_completed_bytes=268_435_456),
            logging=LoggingSettings(level="info", format="text"),
            handlers=None,
        )
        assert config.source is None
        assert config.warnings == ()

    def test_an_empty_file_gives_the_defaults(self) -> None:
        assert load("") == Config()
        assert load("[pool]\n[http]\n") == Config()

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

    def test_the_file_goes_over_the_default(self) -> None:
        config = load("pool.workers = 3")

        assert config.pool == PoolSettings(workers=3)
        assert config.source == Path("config.toml")

    def test_the_environment_goes_over_the_file(self) -> None:
        config = load(
            "[pool]\nworkers = 3\nbuffer_size = 30", environment={"TRIO_JOBS_POOL_WORKERS": "4"}
        )

        assert config.pool == PoolSettings(workers=4, buffer_size=30)

    def test_the_command_line_goes_over_everything(self) -> None:
        config = load(
            "pool.workers = 3",
            environment={"TRIO_JOBS_POOL_WORKERS": "4", "TRIO_JOBS_POOL_BUFFER_SIZE": "50"},
            overrides={"pool.workers": "5"},
        )

        assert config.pool == PoolSettings(workers=5, buffer_size=50)

    def test_an_option_that_was_not_given_overrides_nothing(self) -> None:
        assert load("pool.workers = 3", overrides={"pool.workers": None}).pool.workers == 3

    def test_a_wrong_value_in_the_file_is_refused_though_overridden(self) -> None:
        message = refusal(
            "pool.workers = 0",
            environment={"TRIO_JOBS_POOL_WORKERS": "4"},
            overrides={"pool.workers": "5"},
        )

        assert message == f"config.toml: pool.workers must be {INTEGER}, got 0"

    def test_a_wrong_value_in_the_environment_is_refused_though_overridden(self) -> None:
        message = refusal(
            environment={"TRIO_JOBS_POOL_WORKERS": "0"}, overrides={"pool.workers": "5"}
        )

        assert message == f"TRIO_JOBS_POOL_WORKERS must be {INTEGER}, got '0'"

    def test_each_key_can_be_set_by_the_variable_of_its_name(self) -> None:
        config = load(
            environment={
                "TRIO_JOBS_POOL_WORKERS": "4",
                "TRIO_JOBS_POOL_BUFFER_SIZE": "50",
                "TRIO_JOBS_POOL_GRACE_PERIOD": "2.5",
                "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0",
                "TRIO_JOBS_HTTP_MAX_BODY_BYTES": "1000",
                "TRIO_JOBS_HTTP_KEEP_ALIVE_TIMEOUT": "3",
                "TRIO_JOBS_HTTP_GRACEFUL_TIMEOUT": "0",
                "TRIO_JOBS_STORE_KEEP_COMPLETED": "0",
                "TRIO_JOBS_STORE_KEEP_COMPLETED_BYTES": "5000000000",
                "TRIO_JOBS_LOGGING_LEVEL": "debug",
                "TRIO_JOBS_LOGGING_FORMAT": "json",
            }
        )

        assert config == Config(
            pool=PoolSettings(workers=4, buffer_size=50, grace_period=2.5),
            http=HttpSettings(
                bind=("127.0.0.1:0",),
                max_body_bytes=1000,
                keep_alive_timeout=3.0,
                graceful_timeout=0.0,
            ),
            store=StoreSettings(keep_completed=0, keep_completed_bytes=5_000_000_000),
            logging=LoggingSettings(level="debug", format="json"),
        )

    def test_arrays_are_separated_by_commas_in_the_environment(self) -> None:
        config = load(environment={"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0, [::1]:0,unix:/run/j"})

        assert config.http.bind == ("127.0.0.1:0", "[::1]:0", "unix:/run/j")

    def test_a_lone_string_and_an_array_of_one_are_the_same_bind(self) -> None:
        assert load('http.bind = "[::1]:0"') == load('http.bind = ["[::1]:0"]')
        assert load('http.bind = ["a:0", "b:0"]').http.bind == ("a:0", "b:0")


class TestValues:
    """What a value may be, and what the refusal of any other says."""

    @pytest.mark.parametrize("value", ["1", "100_000", "0x10"])
    def test_workers_in_the_file_may_be(self, value: str) -> None:
        assert load(f"pool.workers = {value}").pool.workers == int(value, base=0)

    @pytest.mark.parametrize(
        ("path", "expected", "wrong"),
        [
            ("pool.workers", INTEGER, ["0", "1.5", "4.0", "100001"]),
            ("pool.buffer_size", "an integer from 1 to 10000000", ["0", "1.5", "10000001"]),
            ("pool.grace_period", SECONDS, ["-0.1", "604801", "1e999"]),
        ],
    )
    def test_wrong_numbers_in_the_file_are_refused(
        self, path: str, expected: str, wrong: list[str]
    ) -> None:
        wrong_for_all = ["-1", '"4"', '"abc"', "true", "false", "1000000000", "inf", "-inf", "nan"]
        wrong_for_all += ["[]", "[4]", "{}", "2026-01-01", '""', '"null"', "9" * 4000]

        for value in wrong + wrong_for_all:
            message = refusal(f"{path} = {value}")

            assert message.startswith(f"config.toml: {path} must be {expected}, got ")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "0",
            "-1",
            "1.5",
            "4.0",
            " 4",
            "4 ",
            "4\n",
            "+4",
            "0x10",
            "1_000",
            "1e3",
            "٤",
            "four",
            "true",
            "null",
            "None",
            "1000000000",
            "9" * 5000,
            "\udcff",
            "--4",
            "4;",
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
        "text", ["", "inf", "nan", "-0.1", "1e3", ".5", "5.", "1,5", "25s", "604801", "1_0.0"]
    )
    def test_wrong_durations_in_the_environment_are_refused(self, text: str) -> None:
        message = refusal(environment={"TRIO_JOBS_POOL_GRACE_PERIOD": text})

        assert message == f"TRIO_JOBS_POOL_GRACE_PERIOD must be {SECONDS}, got {text!r}"

    @pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("30", 30.0), ("0.25", 0.25)])
    def test_an_integer_is_a_fine_duration(self, value: str, seconds: float) -> None:
        in_file = load(f"pool.grace_period = {value}")
        in_environment = load(environment={"TRIO_JOBS_POOL_GRACE_PERIOD": value})

        assert in_file.pool.grace_period == in_environment.pool.grace_period == seconds
        assert isinstance(in_file.pool.grace_period, float)

    @pytest.mark.parametrize(
        "value",
        [
            *('""', "[]", '[""]', "8080", '["a:0", 1]', '"a:0\\n"', "{}"),
            *(
                '"8080"',
                '":80"',
                '"a:65536"',
                '"a:x"',
                '"a b:1"',
                '"unix:"',
                '"unix:relative.sock"',
                f'"unix:/{"x" * 200}"',
                '"[::1::]:80"',
                '"::1:80"',
                '["a:0", "b"]',
            ),
        ],
    )
    def test_wrong_addresses_are_refused(self, value: str) -> None:
        message = refusal(f"http.bind = {value}")

        expected = f"http.bind must be {ADDRESSES}"
        assert message.startswith(f"config.toml: {expected}, got ")

    def test_a_wrong_address_is_refused_where_it_stands_even_if_overridden(self) -> None:
        right = {"http.bind": "127.0.0.1:0"}
        wrong = {"TRIO_JOBS_HTTP_BIND": "8080"}

        in_environment = refusal(environment=wrong, overrides=right)
        on_the_command_line = refusal(overrides={"http.bind": "8080"})
        in_file = refusal('http.bind = "8080"', overrides=right)

        assert in_file == f"config.toml: http.bind must be {ADDRESSES}, got '8080'"
        assert in_environment == f"TRIO_JOBS_HTTP_BIND must be {ADDRESSES}, got '8080'"
        assert on_the_command_line == f"--bind must be {ADDRESSES}, got '8080'"

    @pytest.mark.parametrize("mode", ["0600", "0660", "660", "0666", "0770"])
    def test_a_sockets_mode_is_octal_text(self, mode: str) -> None:
        assert load(f'http.unix_mode = "{mode}"').http.unix_mode == mode
        assert load(environment={"TRIO_JOBS_HTTP_UNIX_MODE": mode}).http.unix_mode == mode

    @pytest.mark.parametrize(
        "value",
        # A number: 0o660 is 432, and 660 is not. A mode for nobody, for readers, with a sticky
        # bit; what is no mode.
        [
            *("0o660", "660", '""', '"0000"', '"0640"', '"1660"', '"06600"', '"0860"', '"0o660"'),
            *('"rw-rw----"', '"0660 "', '"0660\\n"', "true", "[]"),
        ],
    )
    def test_a_mode_that_is_none_is_refused(self, value: str) -> None:
        message = refusal(f"http.unix_mode = {value}")

        assert message.startswith(
            "config.toml: http.unix_mode must be an octal mode in quotes like '0660', "
            "of 6 (may connect) and 0 (may not), got "
        )

    @pytest.mark.parametrize("text", ["", ",", "127.0.0.1:0,"])
    def test_empty_items_of_an_array_in_the_environment_are_refused(self, text: str) -> None:
        message = refusal(environment={"TRIO_JOBS_HTTP_BIND": text})

        expected = ADDRESSES
        assert message == f"TRIO_JOBS_HTTP_BIND must be {expected}, got {text!r}"

    def test_a_choice_is_refused_with_the_choices(self) -> None:
        levels = "one of 'debug', 'error', 'info', 'warning'"

        assert refusal('logging.level = "Verbose"') == (
            f"config.toml: logging.level must be {levels}, got 'Verbose'"
        )
        assert refusal("", overrides={"logging.level": "trace"}) == (
            f"--log-level must be {levels}, got 'trace'"
        )
        assert refusal("", environment={"TRIO_JOBS_LOGGING_FORMAT": ""}) == (
            "TRIO_JOBS_LOGGING_FORMAT must be one of 'json', 'text', got ''"
        )

    @pytest.mark.parametrize("text", ["INFO", "Info", "info"])
    def test_a_choice_may_be_written_in_capitals(self, text: str) -> None:
        assert load(f'logging.level = "{text}"').logging.level == "info"
        assert load("", environment={"TRIO_JOBS_LOGGING_LEVEL": text}).logging.level == "info"
        assert load("", overrides={"logging.level": text}).logging.level == "info"

    @pytest.mark.parametrize(
        ("texts", "value"),
        [
            (["true", "True", "TRUE", "1", "yes", "on", "ON"], True),
            (["false", "False", "0", "no", "off"], False),
        ],
    )
    def test_the_environment_has_several_words_for_yes_and_no(
        self, texts: list[str], value: bool
    ) -> None:
        for text in texts:
            config = load(environment={"TRIO_JOBS_HTTP_ACCESS_LOG": text})
            assert config.http.access_log is value

    @pytest.mark.parametrize("text", ["", "y", "t", "2", "01", "1.0", " true", "none", "enabled"])
    def test_a_word_that_may_mean_something_else_is_no_boolean(self, text: str) -> None:
        message = refusal(environment={"TRIO_JOBS_HTTP_ACCESS_LOG": text})

        assert message == f"TRIO_JOBS_HTTP_ACCESS_LOG must be true or false, got {text!r}"

    @pytest.mark.parametrize("value", ["1", "0", '"true"', '"yes"'])
    def test_the_file_has_booleans_of_its_own(self, value: str) -> None:
        assert "access_log must be true or false" in refusal(f"http.access_log = {value}")

    @given(
        st.sampled_from([path for path in SETTINGS if not SETTINGS[path].secret]),
        st.text(st.characters()),
    )
    # One folder for all examples will do.
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_any_text_is_either_read_back_alike_or_refused(self, path: str, text: str) -> None:
        variable = f"TRIO_JOBS_{path.replace('.', '_').upper()}"
        try:
            config = load(environment={variable: text})
        except ConfigError as error:
            message = str(error)
        else:
            Path("effective.toml").write_text(describe(config), encoding="utf-8")
            assert config == load_config(Path("effective.toml"), environment={}, overrides={})
            return

        assert message.startswith(f"{variable} must be ")
        assert message.isprintable()

    def test_a_table_where_a_value_belongs_is_refused(self) -> None:
        message = refusal("[pool.workers]\ncount = 3")

        assert message == f"config.toml: pool.workers must be {INTEGER}, got {{'count': 3}}"

    def test_a_long_value_is_cut_and_its_line_breaks_are_escaped(self) -> None:
        message = refusal('pool.workers = """' + "x\n" * 5000 + '"""')

        assert "got 'x\\nx\\n" in message
        assert "..." in message

    def test_a_value_that_python_cannot_show_is_refused_like_any_other(self) -> None:
        integer = refusal(f"pool.workers = 0x{'f' * 9000}")
        table = refusal(f"pool.{'.'.join('x' * 3000)} = 1")

        assert integer.endswith("got a value of type int that is too large to show")
        assert "pool.x is not a setting" in table


class TestNames:
    """Names that are not known, in each source."""

    def test_an_unknown_key_is_refused_with_the_nearest_one(self) -> None:
        assert refusal("[pool]\nwokers = 3") == (
            "config.toml: pool.wokers is not a setting, the nearest is pool.workers"
        )

    def test_a_key_in_the_wrong_section_is_refused_with_the_right_one(self) -> None:
        assert refusal("[http]\nbuffer_size = 3").endswith("the nearest is pool.buffer_size")

    def test_an_unknown_section_is_refused_with_the_nearest_name(self) -> None:
        assert refusal("[pol]\nworkers = 3") == (
            "config.toml: pol is not a section, the nearest is pool"
        )

    def test_a_key_outside_any_section_is_refused_with_the_section_it_belongs_to(self) -> None:
        assert refusal("workers = 3") == (
            "config.toml: workers is not a section, the nearest is pool.workers"
        )

    def test_a_section_that_is_no_table_is_refused(self) -> None:
        assert refusal("pool = 3") == "config.toml: pool must be a table [pool], got 3"
        assert refusal("[[http]]\nbind = 'x'") == (
            "config.toml: http must be a table [http], got an array"
        )
        assert refusal("handlers = 'x:y'") == (
            "config.toml: handlers must be a table [handlers], got 'x:y'"
        )

    def test_an_unusual_name_is_quoted_and_cut(self) -> None:
        assert refusal('pool."work\\ners" = 3').startswith("config.toml: pool.'work\\ners' is not")
        assert refusal(f"pool.{'w' * 5000} = 3").startswith("config.toml: pool.wwww")

    def test_an_unknown_variable_of_a_known_section_is_refused(self) -> None:
        assert refusal(environment={"TRIO_JOBS_POOL_WROKERS": "4"}) == (
            "TRIO_JOBS_POOL_WROKERS is not a setting, the nearest is TRIO_JOBS_POOL_WORKERS"
        )
        assert "TRIO_JOBS_POOL_ is not" in refusal(environment={"TRIO_JOBS_POOL_": ""})

    def test_handlers_cannot_be_set_in_the_environment(self) -> None:
        assert refusal(environment={"TRIO_JOBS_HANDLERS_EMAIL": "myapp:send"}) == (
            "TRIO_JOBS_HANDLERS_EMAIL is not a setting, "
            "handlers are set in the [handlers] table of the configuration file"
        )

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("WORKERS", ", the nearest is TRIO_JOBS_POOL_WORKERS"),
            ("Pool_workers", ", the nearest is TRIO_JOBS_POOL_WORKERS"),
            ("LEVEL", ", the nearest is TRIO_JOBS_LOGGING_LEVEL"),
            ("PORT", ", the nearest is TRIO_JOBS_HTTP_BIND"),
            ("CONFIG", ", the option --config names the file"),
            ("VERSION", ""),
            ("POOL", ""),
            ("", ""),
            ("É\n", ""),
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

    def test_name_that_resembles_no_setting_is_refused_without_a_hint(self) -> None:
        assert refusal("[pool]\nzzz = 3") == "config.toml: pool.zzz is not a setting"
        assert refusal("[database]\nurl = 3") == (
            "config.toml: database is not a section, known: pool, http, store, logging, handlers"
        )
        assert refusal("[handlers.a]\nx = 1").startswith(
            "config.toml: handlers.a.x is not a setting, known: call, run, timeout "
        )
        assert refusal("", environment={"TRIO_JOBS_POOL_XYZ": "4"}) == (
            "TRIO_JOBS_POOL_XYZ is not a setting"
        )

    def test_host_and_port_lead_to_the_address(self) -> None:
        assert refusal("[http]\nport = 80").endswith(", the nearest is http.bind")
        assert refusal("[server]\nport = 80").startswith("config.toml: server is not a section")
        assert refusal("port = 80").endswith(", the nearest is http.bind")
        assert refusal("", environment={"TRIO_JOBS_HTTP_PORT": "80"}).endswith(
            ", the nearest is TRIO_JOBS_HTTP_BIND"
        )

    def test_a_variable_of_someone_else_is_not_looked_at(self) -> None:
        config = load(environment={"TRIO_JOBSPOOL_WORKERS": "", "PATH": "", "trio_jobs_pool_x": ""})

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

    def test_a_port_that_is_no_service_url_is_the_users_mistake(self) -> None:
        assert "TRIO_JOBS_HTTP_PORT is not a setting" in refusal(
            environment={"TRIO_JOBS_HTTP_PORT": "9000"}
        )
        [warning] = load(environment={"TRIO_JOBS_PORT": "9000"}).warnings
        assert "TRIO_JOBS_PORT is not a setting and has no effect" in warning

    @pytest.mark.parametrize("name", ["POOL_SERVICE", "HTTP_PORT_X_TCP", "HTTP_EXPORT"])
    def test_what_only_resembles_them_is_refused(self, name: str) -> None:
        assert "is not a setting" in refusal(environment={f"TRIO_JOBS_{name}": "tcp://10.0.0.1:1"})


class TestFile:
    """Files that cannot be read, or not as TOML."""

    def test_a_file_that_was_named_must_be_there(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load_config(Path("conf/jobs.toml"), environment={}, overrides={})

        assert str(caught.value) == (
            "conf/jobs.toml: must be a readable file, got: No such file or directory"
        )

    def test_a_file_that_was_named_is_named_so_in_messages(self, tmp_path: Path) -> None:
        path = tmp_path / "odd\nname.toml"
        path.write_text("pool.workers = 0")

        with pytest.raises(ConfigError) as caught:
            load_config(path, environment={}, overrides={})

        assert "odd\\nname.toml': pool.workers must be" in str(caught.value)
        assert str(caught.value).isprintable()

    def test_a_folder_is_refused(self) -> None:
        Path("config.toml").mkdir()

        assert refusal() == "config.toml: must be a readable file, got: Is a directory"

    def test_a_link_to_a_device_without_an_end_is_refused(self) -> None:
        Path("config.toml").symlink_to("/dev/zero")

        assert refusal() == "config.toml: must be a readable file, got: more than 1048576 bytes"

    def test_a_device_without_content_is_an_empty_file(self) -> None:
        Path("config.toml").symlink_to("/dev/null")

        assert load() == Config()

    def test_a_link_that_leads_nowhere_is_refused_not_taken_for_absent(self) -> None:
        Path("config.toml").symlink_to("gone.toml")

        assert refusal() == "config.toml: must be a readable file, got: No such file or directory"

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
        config = load(
            """
            [handlers]
            default = "myapp:anything"
            "image.resize" = "myapp.images:Resizer.resize"
            """
        )

        assert config.handlers == {
            "default": HandlerSettings(call="myapp:anything"),
            "image.resize": HandlerSettings(call="myapp.images:Resizer.resize"),
        }

    @pytest.mark.parametrize(
        "value",
        [
            '""',
            '"myapp.send"',
            '"myapp:"',
            '":send"',
            '"my-app:send"',
            '"myapp:send()"',
            "3",
            "[]",
            '" myapp:send"',
            '"myapp:send\\n"',
            '"a..b:c"',
            '"a:b:c"',
            '"a/b.py:c"',
            '"a:1b"',
        ],
    )
    def test_what_is_no_functions_name_is_refused(self, value: str) -> None:
        message = refusal(f"handlers.email = {value}")

        found = tomllib.loads(f"found = {value}")["found"]
        assert message == (
            "config.toml: handlers.email must be a function's name like "
            f"'package.module:function', got {found!r}"
        )

    def test_a_functions_name_is_read_as_python_reads_it(self) -> None:
        composed, decomposed = "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n", "gru\u0308n"

        config = load(
            f"""
            handlers.a = "{decomposed}:{decomposed}"
            handlers.b.call = "{decomposed}:{decomposed}"
            """
        )

        call = f"{composed}:{composed}"
        assert config.handlers == {"a": HandlerSettings(call=call), "b": HandlerSettings(call=call)}

    def test_the_long_form_says_how_a_function_is_run(self) -> None:
        config = load(
            """
            [handlers.resize]
            call = "myapp.images:resize"
            run = "process"
            timeout = 30

            [handlers.other]
            call = "myapp:other"
            """
        )

        assert config.handlers == {
            "resize": HandlerSettings(call="myapp.images:resize", run="process", timeout=30.0),
            "other": HandlerSettings(call="myapp:other", run=None, timeout=None),
        }

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ('run = "fork"', ".run must be one of 'async', 'process', 'thread', got 'fork'"),
            ("run = true", ".run must be one of 'async', 'process', 'thread', got True"),
            ("timeout = 0", ".timeout must be a number of seconds from 0.001 to 604800, got 0"),
            ("timeout = nan", ".timeout must be a number of seconds from 0.001 to 604800, got nan"),
            (
                'timeout = "30"',
                ".timeout must be a number of seconds from 0.001 to 604800, got '30'",
            ),
            (
                "tiemout = 30",
                ".tiemout is not a setting, the nearest is timeout, known: call, run, timeout (a",
            ),
        ],
    )
    def test_a_mistake_in_the_long_form_is_refused(self, settings: str, message: str) -> None:
        text = f'[handlers.resize]\ncall = "myapp:resize"\n{settings}'

        assert refusal(text).startswith(f"config.toml: handlers.resize{message}")

    def test_the_long_form_needs_a_function(self) -> None:
        assert refusal("handlers.resize.timeout = 3") == (
            "config.toml: handlers.resize must have a function's name as its key call, got none"
        )

    def test_the_message_quotes_an_unusual_type(self) -> None:
        assert "handlers.'image.resize' must be" in refusal('handlers."image.resize" = 3')

    def test_an_empty_type_is_refused(self) -> None:
        message = refusal('handlers."" = "myapp:send"')

        assert message == "config.toml: [handlers] takes non-empty job types, got ''"

    def test_an_empty_table_is_refused(self) -> None:
        assert refusal("[handlers]") == (
            "config.toml: [handlers] must name at least one handler, got none"
        )


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
        ],
    )
    def test_what_it_says_is_read_back_as_the_same_configuration(self, text: str) -> None:
        config = load(text)

        assert load(describe(config)) == config

    def test_it_names_the_file_and_each_setting(self) -> None:
        text = describe(load('pool.workers = 3\nhandlers.email = "myapp:send"'))

        assert text.startswith("# from 'config.toml'\n\n[pool]\nworkers = 3\n")
        assert text.endswith('\n[handlers]\n"email" = "myapp:send"\n')
        assert describe(Config()).startswith("# without a file\n")
        for path, setting in SETTINGS.items():
            assert (f"\n{path.partition('.')[2]} = " in text) is (setting.default is not None)

    def test_it_leaves_out_what_is_secret_or_not_set(self) -> None:
        http = HttpSettings(token="s3cret")  # noqa: S106  # a secret to look for

        text = describe(Config(http=http))

        assert "access_log = false" in text
        assert "token" not in text
        assert "s3cret" not in text
        assert "certfile" not in text


class TestKinds:
    """Each kind of setting as text, and as an argument in a Python program."""

    @pytest.mark.parametrize(
        ("path", "text", "value"),
        [
            ("http.token", "s3cret", "s3cret"),
            ("http.token", "Yes", "Yes"),
            ("http.allowed_hosts", "a,b", ("a", "b")),
            ("http.allowed_hosts", "1", ("1",)),
            ("pool.processes", "4", 4),
            ("logging.slow_step", "2", 2.0),
            ("logging.format", "JSON", "json"),
        ],
    )
    def test_text_becomes_a_value(self, path: str, text: str, value: object) -> None:
        config = load(environment={f"TRIO_JOBS_{path.replace('.', '_').upper()}": text})

        assert attrgetter(path)(config) == value

    @pytest.mark.parametrize(
        ("path", "text", "expected"),
        [
            ("http.certfile", "", "a non-empty string without control characters, got ''"),
            ("http.allowed_hosts", "a,", "a string or an array of strings, got 'a,'"),
            ("pool.processes", "0", "an integer from 1 to 1000, got '0'"),
            ("http.send_timeout", "0", "a number of seconds from 0.1 to 604800, got '0'"),
        ],
    )
    def test_a_wrong_text_is_refused(self, path: str, text: str, expected: str) -> None:
        variable = f"TRIO_JOBS_{path.replace('.', '_').upper()}"

        assert refusal(environment={variable: text}) == f"{variable} must be {expected}"

    def test_a_refused_secret_is_not_shown(self) -> None:
        with pytest.raises(ConfigError) as caught:
            load(environment={"TRIO_JOBS_HTTP_TOKEN": "s3cret\n"})

        assert str(caught.value) == (
            "TRIO_JOBS_HTTP_TOKEN must be a non-empty string without control characters, "
            "got a value that is not shown here"
        )
        assert caught.value.__context__ is None

    def test_a_section_is_made_of_checked_arguments(self) -> None:
        made = build(PoolSettings, workers=3, processes=None)

        assert made == PoolSettings(workers=3)
        with pytest.raises(ValueError, match=r"^workers must be an integer from 1 .*, got True$"):
            build(PoolSettings, workers=True)

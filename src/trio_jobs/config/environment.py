"""The environment: ``TRIO_JOBS_<SECTION>_<KEY>``, and the names there that are none of ours."""

import re
from collections.abc import Mapping
from typing import Final

from trio_jobs.config.keys import KEYS, KEYS_BY_PATH, PATHS_BY_NAME
from trio_jobs.config.messages import ConfigError, hint, shown_name

_PREFIX: Final = "TRIO_JOBS_"
_VARIABLES_BY_NAME: Final = {
    name.replace(".", "_").upper(): KEYS_BY_PATH[path].variable
    for name, path in PATHS_BY_NAME.items()
}
_SECTION_PREFIXES: Final = tuple(f"{section.upper()}_" for section in KEYS)
# Kubernetes puts these into every pod beside a service called trio-jobs, and beside one called
# trio-jobs-http they look like settings of ours: TRIO_JOBS_HTTP_PORT_8080_TCP_ADDR.
_SERVICE_LINK: Final = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# A bare ..._PORT is Kubernetes' if it is a URL. TRIO_JOBS_HTTP_PORT=9000 is someone who wants
# another port, and must not get the default one in silence.
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://.+")


def read_environment(
    environment: Mapping[str, str],
) -> tuple[dict[str, object], tuple[str, ...]]:
    """Read and check every variable that begins with ``TRIO_JOBS_``.

    A variable that is set but empty is a value like any other, so it is refused, not skipped.

    Returns:
        The values by path (``pool.workers``), and a warning for each name that means nothing.

    Raises:
        ConfigError: A wrong value, or an unknown name that begins like a setting of ours.
    """
    variables = {key.variable: key for key in KEYS_BY_PATH.values()}
    values: dict[str, object] = {}
    warnings: list[str] = []
    for variable in sorted(environment):  # sorted: the same mistake is reported first every time
        text = environment[variable]
        if not variable.startswith(_PREFIX):
            continue
        if key := variables.get(variable):
            values[key.path] = key.parse(text, where=variable)
            continue
        name = variable.removeprefix(_PREFIX)
        if _is_service_link(name, text):
            continue
        if name.startswith("HANDLERS_"):
            raise ConfigError(
                f"{shown_name(variable)} is not a setting, "
                "handlers are set in the [handlers] table of the configuration file"
            )
        unknown = f"{shown_name(variable)} is not a setting"
        # Without the prefix, which makes all of them alike.
        rest = name.upper().partition("_")[2]
        near = hint(name.upper(), _VARIABLES_BY_NAME) or hint(rest, _VARIABLES_BY_NAME)
        if name.startswith(_SECTION_PREFIXES):
            raise ConfigError(f"{unknown}{near}")
        if name == "CONFIG":
            near = ", the option --config names the file"
        warnings.append(f"{unknown} and has no effect{near}")
    return values, tuple(warnings)


def _is_service_link(name: str, value: str) -> bool:
    if _SERVICE_LINK.fullmatch(name):
        return True
    return f"_{name}".endswith("_PORT") and _SERVICE_URL.fullmatch(value) is not None

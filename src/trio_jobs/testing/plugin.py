"""What pytest finds of trio-jobs: the plugin, or in an old pytest no more than a hint.

It is loaded wherever trio-jobs is installed next to pytest, also where nobody
has asked for it, and what goes wrong in here ends the whole run. So what the
plugin does is in `trio_jobs.testing.hooks`, which an old pytest cannot even
import, and this module must be fine with any.
"""

import pytest

# That of the extra `testing`.
_NEEDED = (8, 4)

# The tuple is there since 7.0.
if getattr(pytest, "version_tuple", ()) >= _NEEDED:
    pytest_plugins = "trio_jobs.testing.hooks"
else:
    # The annotations are texts because 6.2 has no such names.

    def pytest_configure(config: "pytest.Config") -> None:
        """Make the markers known, so that a strict pytest does not say something else of them."""
        for name in ("trio_jobs", "interleavings"):
            config.addinivalue_line("markers", f"{name}: needs a newer pytest")

    def pytest_itemcollected(item: "pytest.Item") -> None:
        """Tell who uses a marker what it needs.

        Raises:
            pytest.UsageError: Nothing would see to it.
        """
        for name in ("trio_jobs", "interleavings"):
            if item.get_closest_marker(name):
                needed = ".".join(map(str, _NEEDED))
                raise pytest.UsageError(
                    f"{item.nodeid}: the marker {name} needs pytest >= {needed},"
                    f" got {pytest.__version__}: install trio-jobs[testing]"
                )

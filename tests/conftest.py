"""What all tests share: hypothesis profiles, and which tests run in one process.

`HYPOTHESIS_PROFILE=thorough` searches ten times as long. In CI the examples are the same in every run, so that a
red build is the change's own doing; a failure prints the line that repeats it.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline by the wall clock: on a busy machine it would measure the machine.
settings.register_profile(
    "default", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

ROOT = Path(__file__).parent
SPREAD = ("unit", "simulation", "engineering")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests in one process, so that the hosts and meshes they share are started once; all of
    compliance, for its tests share one host. Those that share nothing are spread."""
    for item in items:
        path = item.path.relative_to(ROOT)
        if (
            path.parts[0] in SPREAD
            or item.get_closest_marker("spread")
            or item.get_closest_marker("xdist_group")
        ):
            continue
        group = path.parts[0] if path.parts[0] == "compliance" else path.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))

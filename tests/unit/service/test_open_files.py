"""A process of the mesh may open as many files as the machine allows."""

import subprocess
import sys

import pytest

SAY = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
ALLOW = "from envmesh_service.open_files import allow_open_files; allow_open_files(); "


@pytest.mark.parametrize("soft", [300, 700])
def test_the_soft_limit_becomes_the_hard_one(soft):
    limits = f"ulimit -Sn {soft}; ulimit -Hn 700"
    said = subprocess.run(
        ["bash", "-c", f'{limits}; exec "$@"', "bash", sys.executable, "-c", ALLOW + SAY],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert said.stdout.split() == ["700", "700"]

"""`pip install envmesh` is the client alone: it imports with nothing but the base dependencies there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What the extras' distributions are called when imported, where that differs.
IMPORTED_AS = {"grpcio-health-checking": "grpc_health", "grpcio-reflection": "grpc_reflection"}


def test_the_client_needs_no_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    lines = [line for extra in ("mesh", "environments", "parquet") for line in extras[extra]]
    distributions = [re.split(r"[^\w.-]", line)[0] for line in lines]
    modules = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in distributions}
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import envmesh
for name in getattr(envmesh, "__all__", ()):
    getattr(envmesh, name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr

"""Generates the Python code of the protocol: `python tools/generate_protos.py [--check]`.

Each .proto under proto/ becomes a `_pb2.py` under clients/python, and each that holds a service
a `_pb2_grpc.py` too, from the protoc inside grpcio-tools; a `.pyi` beside each comes from mypy-protobuf, which
carries the .proto's comments over as docstrings. Both tools are pinned in pyproject.toml, so one .proto gives the
same bytes everywhere. Generated files whose .proto is gone are removed. `--check` writes nothing, and fails with
the names of the files that would change.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
OUTPUT = ROOT / "clients" / "python"
SERVICE = re.compile(r"^service \w+ *\{", re.MULTILINE)


def generated(output: Path) -> set[Path]:
    """The generated files that stand under `output`."""
    return {
        file
        for file in output.rglob("*_pb2*")
        if file.name.endswith(("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"))
    }


def expected(output: Path, sources: list[Path], services: list[Path]) -> set[Path]:
    """The files that `sources` give under `output`, of which `services` hold a service."""
    stems = [f"{source.with_suffix('')}_pb2" for source in sources]
    stems += [f"{source.with_suffix('')}_pb2_grpc" for source in services]
    return {output / f"{stem}{ending}" for stem in stems for ending in (".py", ".pyi")}


def protoc(sources: list[Path], *outputs: str) -> None:
    """Runs the pinned protoc over `sources`, paths relative to proto/.

    Raises:
        subprocess.CalledProcessError: protoc refused a file; it has said why on stderr.
    """
    if not sources:
        return
    # protoc finds its plugins on PATH, and a venv that is not activated has its scripts beside its python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *outputs, *map(str, sources)]
    subprocess.run(command, check=True, cwd=PROTO, env={**os.environ, "PATH": path})


def generate(output: Path) -> list[Path]:
    """Writes the code of every .proto under `output` and returns the .proto files, relative to proto/."""
    sources = sorted(file.relative_to(PROTO) for file in PROTO.rglob("*.proto"))
    services = [source for source in sources if SERVICE.search((PROTO / source).read_text(encoding="utf-8"))]
    output.mkdir(parents=True, exist_ok=True)
    protoc(sources, f"--python_out={output}", f"--mypy_out=quiet:{output}")
    protoc(services, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}")
    for stale in generated(output) - expected(output, sources, services):
        stale.unlink()
    return sources


def differences() -> list[str]:
    """The generated files that are not what proto/ gives, relative to the repository, each with what is wrong."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        wanted = {file.relative_to(fresh): file.read_bytes() for file in generated(fresh)}
    standing = {file.relative_to(OUTPUT): file.read_bytes() for file in generated(OUTPUT)}
    wrong = []
    for file in sorted(wanted.keys() | standing.keys()):
        if wanted.get(file) != standing.get(file):
            what = (
                "is missing" if file not in standing else "has no .proto" if file not in wanted else "differs"
            )
            wrong.append(f"{(OUTPUT / file).relative_to(ROOT)} {what}")
    return wrong


def main() -> int:
    """Generates, or with `--check` compares; the exit status says whether the comparison held."""
    if sys.argv[1:] == ["--check"]:
        wrong = differences()
        print("\n".join(wrong) if wrong else "The generated code is what proto/ gives.")
        if wrong:
            print("Run `make proto` and commit the result.")
        return 1 if wrong else 0
    sources = generate(OUTPUT)
    print(f"{len(sources)} .proto files gave {len(generated(OUTPUT))} files under {OUTPUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)

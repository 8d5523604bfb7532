"""The image's Dockerfile: what can be said of it without an engine; tests/cluster/test_real_containers.py builds it."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from tests.cluster.assets import ROOT

DOCKERFILE = ROOT / "services" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continuation lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines()]


def final() -> list[tuple[str, str]]:
    """The instructions of the last stage."""
    made = instructions()
    last = max(number for number, (name, _) in enumerate(made) if name == "FROM")
    return made[last:]


def test_it_has_two_stages_on_one_base() -> None:
    stages = [arguments for name, arguments in instructions() if name == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    assert instructions()[0][0] == "ARG"


def test_it_runs_as_a_number_that_is_not_root() -> None:
    users = [arguments for name, arguments in final() if name == "USER"]
    assert users[-1] == "65532:65532"
    assert not [arguments for name, arguments in final() if name == "RUN"], "the last stage only copies"


def test_nothing_is_fetched_but_packages() -> None:
    for name, arguments in instructions():
        assert name != "ADD"
        assert not re.search(r"\b(curl|wget|git clone|apt-get upgrade|sudo)\b", arguments), arguments


def test_what_it_copies_is_there_and_passes_the_ignore_file() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for name, arguments in instructions():
        if name == "COPY" and "--from" not in arguments:
            for source in arguments.split()[:-1]:
                if "[" in source:  # local wheels, which may not be there
                    source = source.replace("[", "").replace("]", "")
                    assert f"{source}" in kept
                    continue
                assert (ROOT / source).exists(), source
                assert any(
                    fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in kept
                ), source

"""What a failed command tells: somebody who ends the process with a text is heard, and a missing extra is named."""

from __future__ import annotations

import pytest

from envmesh_cli.failures import FAILED, USAGE, tell


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (SystemExit("cannot find a display"), FAILED, "envmesh serve: cannot find a display\n"),
        (BaseExceptionGroup("a group", [SystemExit("no display")]), FAILED, "envmesh serve: no display\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(), FAILED, ""),
    ],
)
def test_an_exit_with_a_text_is_told(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(error, "serve") == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("package", ["fsspec", "jsonschema.exceptions", "rich.console"])
def test_a_package_of_the_mesh_that_is_missing_is_told_with_its_extra(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(ModuleNotFoundError(f"No module named {package!r}", name=package), "serve") == USAGE
    assert "pip install 'envmesh[mesh]'" in capsys.readouterr().err

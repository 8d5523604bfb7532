"""Which environments targets are: ``python -m envmesh_cli.declaring PARENT TARGET… [flags of serve]`` prints their keys
as JSON. In a process of its own, for it loads authors' code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence

from envmesh_cli.child import ChildFailed, complaint
from envmesh_cli.failures import USAGE

__all__ = ["declared_environments"]

PATIENCE = 120.0
LONGEST_COMPLAINT = 2000


async def declared_environments(targets: Sequence[str], flags: Sequence[str]) -> tuple[str, ...]:
    """The ``name@version`` of each target.

    Raises:
        ChildFailed: a target cannot be loaded, with what its loader said.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "envmesh_cli.declaring", str(os.getpid()), *targets, *flags,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            told, complained = await process.communicate()
    except TimeoutError:
        raise ChildFailed(f"{' '.join(targets)}: not loaded within {PATIENCE:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = complained.decode(errors="replace").strip()
        raise ChildFailed((complaint(said.splitlines()) or said)[-LONGEST_COMPLAINT:], USAGE)
    return tuple(json.loads(told.splitlines()[-1]))


def main() -> int:
    """Load and print."""
    from envmesh_cli.arguments import build_parser
    from envmesh_cli.failures import tell
    from envmesh_cli.targets import declarations, load_targets
    from envmesh_host.isolation.kernel import die_with_parent

    die_with_parent(int(sys.argv[1]))
    arguments = build_parser().parse_args(["serve", *sys.argv[2:]])
    try:
        keys = [definition.key for definition in load_targets(arguments.targets, declarations(arguments))]
    except BaseException as error:
        return tell(error, "up", verbose=False)
    sys.stdout.write(f"\n{json.dumps(keys)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a child process of a local mesh runs: ``python -m envmesh_cli.child_entry PARENT broker|serve …``.

It ends when its parent does, however that ends.
"""

from __future__ import annotations

import sys

from envmesh_host.isolation.kernel import die_with_parent


def main() -> int:
    """Run a broker or a host."""
    die_with_parent(int(sys.argv[1]))
    if sys.argv[2] == "broker":
        from envmesh_broker.__main__ import main as broker

        return broker()
    from envmesh_cli.main import main as command

    return command(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())

"""``python -m envmesh_cli`` is ``envmesh``."""

import sys

from envmesh_cli.main import main

sys.exit(main())

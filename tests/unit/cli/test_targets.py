"""What the command line declares is laid over what the code declares."""

from envmesh.env import Limits
from envmesh_cli.arguments import build_parser
from envmesh_cli.targets import declarations, load_targets

FAULTY = "tests.environments.faulty:Faulty"


def test_a_step_limit_leaves_the_other_limits_as_they_are_declared():
    arguments = build_parser().parse_args(["serve", FAULTY, "--step-limit", "30s"])
    (definition,) = load_targets(arguments.targets, declarations(arguments))
    assert definition.declaration.limits == Limits(reset_seconds=10.0, step_seconds=30.0)
    assert definition.declaration.declared

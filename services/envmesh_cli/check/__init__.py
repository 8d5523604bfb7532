"""``envmesh check``: judges an environment before anyone trains on it.

``run_check(definition)`` measures in child processes, so that nothing an environment does can hang or end the check,
and judges by pure functions over the measurements; ``render(report)`` shows it to people, ``report.to_json()`` to
programs. Where no space says what an action is, an environment may have ``example_actions``, a list or a method that
gives one.
"""

from envmesh_cli.check.render import render
from envmesh_cli.check.report import Finding, Report, Verdict
from envmesh_cli.check.run import run_check

__all__ = ["Finding", "Report", "Verdict", "render", "run_check"]

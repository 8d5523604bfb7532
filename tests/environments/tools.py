"""An environment whose actions are calls of tools."""

from envmesh import spaces
from envmesh.env import environment

NUMBER = {"type": "number"}


def tool(name, *parameters):
    schema = {"type": "object", "properties": dict.fromkeys(parameters, NUMBER), "required": list(parameters)}
    return spaces.Tool(name, "", schema)


@environment(
    recovery="replay",
    isolation="inline",
    action_space=spaces.ToolList((tool("add", "left", "right"), tool("divide", "by")), True, True),
)
class Desk:
    """Divides by zero when told to, and says so."""

    def reset(self, *, seed=None, options=None):
        return "ready", {}

    def step(self, action):
        calls = action if isinstance(action, list) else [action] if isinstance(action, dict) else []
        failed = sum(call["name"] == "divide" and not call["arguments"]["by"] for call in calls)
        return "done", 0.0, False, False, {"tool_errors": failed} if failed else {}

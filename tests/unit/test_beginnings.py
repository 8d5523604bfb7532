"""How callers say an episode is to begin."""

from envmesh.beginnings import make_beginning
from envmesh.values import from_proto


def test_options_are_those_that_were_sent_whatever_becomes_of_the_callers():
    options = {"level": 1, "rooms": {"doors": [1, 2]}}
    beginning = make_beginning(None, options, "", "")
    options["level"] = 2
    options["rooms"]["doors"].append(3)  # type: ignore[index]
    assert beginning.options == {"level": 1, "rooms": {"doors": [1, 2]}}
    assert beginning.options_value is not None
    assert beginning.options == from_proto(beginning.options_value)

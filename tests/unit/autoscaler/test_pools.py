import json

import pytest

from envmesh_autoscaler.pools import read_scaling

POOL = {"name": "games", "environments": ["chess@1"]}


def test_a_pools_file_with_everything():
    text = json.dumps(
        {
            "max_hosts": 50,
            "pools": [
                {
                    **POOL, "deployment": "mesh-games", "mode": "keda", "slots": 16, "min_hosts": 1, "max_hosts": 9,
                    "buffer_min": 2, "buffer_factor": 1.5, "target_fill": 0.9, "look_back": 60, "idle_after": 60,
                    "drain_patience": 120, "drain_budget": 3, "retiring": False,
                },
                {"name": "older", "environments": ["chess@1"], "retiring": True, "min_hosts": 3},
            ],
        }
    )  # fmt: skip
    scaling = read_scaling(text)
    games, older = scaling.pools
    assert (scaling.max_hosts, games.target, games.mode, games.policy.max_hosts) == (
        50,
        "mesh-games",
        "keda",
        9,
    )
    assert (older.policy.min_hosts, older.policy.buffer_min) == (0, 0)


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ("{", "no JSON"),
        ([POOL], "an object with 'pools'"),
        ({"pools": {}}, "pools: a list"),
        ({"pools": [], "max_hosts": -1}, "max_hosts: a whole number"),
        ({"pools": [{**POOL, "max_host": 3}]}, r"pools\[0\].max_host: there is no such key"),
        ({"pools": [{"name": "x", "environments": []}]}, "list of name@version"),
        ({"pools": [{**POOL, "mode": "auto"}]}, "one of direct, keda, hpa"),
        ({"pools": [{**POOL, "min_hosts": 1.5}]}, "a whole number is right"),
        ({"pools": [{**POOL, "min_hosts": 5, "max_hosts": 2}]}, "max_hosts must be"),
        ({"pools": [POOL, POOL]}, "two pools are named 'games'"),
        ({"pools": [POOL, {**POOL, "name": "b"}]}, "two pools serve 'chess@1'"),
        ({"pools": [{**POOL, "drain_budget": 0}]}, "drain_budget"),
    ],
)
def test_what_cannot_be_meant_is_told(pools, says):
    with pytest.raises(ValueError, match=says):
        read_scaling(pools if isinstance(pools, str) else json.dumps(pools))

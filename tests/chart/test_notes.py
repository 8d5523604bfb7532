"""What Helm tells an operator after an installation: what to do next, and what is not as it should be."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.matrix import WALK, WALK_NEXT, pool
from tests.chart.rendering import notes

pytestmark = pytest.mark.chart

GITOPS: dict[str, Any] = {
    "tls": {
        "mode": "existing",
        "existingSecrets": {"broker": "b-tls", "host": "h-tls", "autoscaler": "a-tls"},
    },
    "keys": {"generate": False, "existingLeaseSecret": "lease", "existingSealSecret": "seal"},
    "credentials": {"existingSecret": "who"},
}


def test_by_default_it_says_how_to_connect_and_warns_of_nothing() -> None:
    said = notes()
    assert 'envmesh.connect("m-envmesh-broker.rl.svc:7070", token=…, ca="ca.crt")' in said
    assert "get secret m-envmesh-trainer-token -o jsonpath='{.data.token}'" in said
    assert "helm -n rl test m" in said
    assert "WARNING" not in said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GITOPS, "are not in rl; pods wait for them: a-tls, b-tls, h-tls, lease, seal, who"),
        ({"gateway": {"enabled": True, "certificateSecret": "public"}}, "pods wait for them: public"),
        ({"image": {"pullSecrets": ["registry"]}}, "pods wait for them: registry"),
        ({"credentials": {"mode": "none"}}, "Whoever reaches the broker may use it"),
        ({"tls": {"mode": "off"}}, "everything is plain text"),
        ({"rbac": {"scope": "namespace"}}, "gives up ServiceAccount logins, a PriorityClass of ours"),
        (pool(scaling={"mode": "manual"}), "kubectl -n rl scale deployment m-envmesh-pool-NAME"),
        (
            {"pools": {"a": {"environments": [WALK], "retiring": True}, "b": {"environments": [WALK_NEXT]}}},
            "a: walk@1; retiring",
        ),
        ({"gateway": {"enabled": True}}, "say the name that trainers use in tls.extraNames.gateway"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_it_says_what_these_values_mean(values: dict[str, Any], words: str) -> None:
    assert words in notes(values)

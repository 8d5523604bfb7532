"""What Kubernetes objects say of a pool's hosts (pure). Objects are JSON, as the API server sends them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envmesh_autoscaler.observation import Instance

__all__ = [
    "DELETION_COST",
    "DRY_RUN",
    "PAUSED",
    "PINNED",
    "SEALED",
    "deletion_cost",
    "instance_of",
    "is_live",
    "is_ready",
    "mark_patch",
    "matches",
    "node_goes",
    "roll_pace",
    "roll_patch",
    "seal_patch",
    "unmark_patch",
    "unsettled",
]

Object = Mapping[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
DRAIN = "envmesh.dev/drain"
"""On a pod whose drain is ours: it can be taken back."""
SEALED = "envmesh.dev/sealed"
"""Label of a host that has sealed itself; the PodDisruptionBudget leaves it out."""
PINNED = "envmesh.dev/pinned"
"""On a pod, by an operator: it is never chosen to go."""
PAUSED = "envmesh.dev/paused"
"""On a Deployment, by an operator: it is left alone."""
ROLL = "envmesh.dev/roll"
"""On a Deployment whose roll we have paused."""
DRY_RUN = "envmesh.dev/dry-run"
"""On a Deployment, by an operator: only say what would be done."""

DRAINING_COST = "-100"
_FIRST_SEALED, _FIRST_SECOND = -2_000_000_000, 1_700_000_000
STRANDED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class _Taint:
    key: str
    value: str
    effect: str


def matches(deployment: Object, pod: Object) -> bool:
    """Whether a pod is one of a Deployment's."""
    wanted = deployment["spec"]["selector"].get("matchLabels", {})
    labels = pod["metadata"].get("labels", {})
    owners = pod["metadata"].get("ownerReferences", ())
    owned = any(owner.get("controller") and owner["kind"] == "ReplicaSet" for owner in owners)
    return bool(wanted) and owned and all(labels.get(key) == value for key, value in wanted.items())


def is_live(pod: Object) -> bool:
    """Whether its ReplicaSet counts it."""
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") not in (
        "Succeeded",
        "Failed",
    )


def is_ready(pod: Object) -> bool:
    """Whether it is Ready."""
    ready = _condition(pod, "Ready")
    return ready is not None and ready["status"] == "True"


def instance_of(pod: Object, node: Object | None, now: float, seen_for: float) -> Instance:
    """A host. ``now`` is on the wall clock, ``seen_for`` for how long its marks have been seen as they are."""
    meta = pod["metadata"]
    annotations, labels = meta.get("annotations", {}), meta.get("labels", {})
    ready, scheduled = _condition(pod, "Ready"), _condition(pod, "PodScheduled")
    created = _seconds(meta["creationTimestamp"])
    is_up = ready is not None and ready["status"] == "True"
    since = _seconds(ready["lastTransitionTime"]) if ready is not None and is_up else now
    waits = scheduled is not None and scheduled["status"] == "False"
    unschedulable = waits and scheduled is not None and scheduled.get("reason") == "Unschedulable"
    late = not is_up and now - created > STRANDED_SECONDS
    return Instance(
        host_id=meta["uid"],
        name=meta["name"],
        ready=is_up,
        ready_for=max(0.0, now - since) if is_up else 0.0,
        start_seconds=max(0.0, since - created) if is_up else None,
        ours=annotations.get(DRAIN) == "scale-in",
        sealed=labels.get(SEALED) == "true",
        leaving=node is not None and node_goes(node, pod),
        pinned=annotations.get(PINNED) == "true",
        stranded=unschedulable or late,
        unschedulable=unschedulable,
        removable=unschedulable or late or (labels.get(SEALED) == "true" and seen_for >= 2.0),
    )


def node_goes(node: Object, pod: Object) -> bool:
    """Whether a pod's node is cordoned, or has a taint that the pod would not be scheduled under."""
    spec = node.get("spec", {})
    if spec.get("unschedulable"):
        return True
    taints = (_Taint(t["key"], t.get("value", ""), t["effect"]) for t in spec.get("taints", ()))
    tolerations = pod["spec"].get("tolerations", ())
    return any(
        taint.effect in ("NoSchedule", "NoExecute") and not any(_tolerates(t, taint) for t in tolerations)
        for taint in taints
    )


def _tolerates(toleration: Object, taint: _Taint) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.effect:
        return False
    key, operator = toleration.get("key", ""), toleration.get("operator", "Equal")
    if not key:
        return bool(operator == "Exists")
    return bool(key == taint.key and (operator == "Exists" or toleration.get("value", "") == taint.value))


def unsettled(deployment: Object, pods: Iterable[Object], gone: Iterable[str] = ()) -> str:
    """Why replicas cannot be lowered: which pods would go is only sure while nothing else changes. ``pods`` are live,
    ``gone`` those to be counted out. Empty: they can."""
    pods, leaving = list(pods), set(gone)
    meta, spec = deployment["metadata"], deployment["spec"]
    observed = deployment.get("status", {}).get("observedGeneration", 0)
    if observed < meta["generation"]:
        return "the Deployment's controller has not seen its last change"
    if len({pod["metadata"].get("labels", {}).get("pod-template-hash", "") for pod in pods}) > 1:
        return "a roll is under way: more than one ReplicaSet has pods"
    if len(pods) != spec["replicas"]:
        return f"{len(pods)} pods are there, and {spec['replicas']} are asked for"
    unready = [pod for pod in pods if not is_ready(pod) and pod["metadata"]["uid"] not in leaving]
    if unready:
        return f"{len(unready)} pods are not Ready, and would go first"
    return ""


def creation_refused(deployment: Object) -> str:
    """Why the cluster refuses to create a Deployment's pods, in its words; empty: it does not. A ResourceQuota lets
    replicas be written and then refuses the pods."""
    conditions = deployment.get("status", {}).get("conditions", ())
    said = (c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True")
    return next((str(c.get("message") or c.get("reason") or "no reason is told") for c in said), "")


def roll_pace(deployment: Object, pods: Iterable[Object], budget: int) -> bool | None:
    """Whether a roll is to pause (True) or go on (False), so that at most about ``budget`` hosts drain at once; None:
    as it is. A pause that is not ours stays. ``pods`` are all of the Deployment's, those that end too."""
    pods = list(pods)
    ending = sum("deletionTimestamp" in pod["metadata"] for pod in pods)
    hashes = {pod["metadata"].get("labels", {}).get("pod-template-hash", "") for pod in pods if is_live(pod)}
    paused = bool(deployment["spec"].get("paused"))
    ours = deployment["metadata"].get("annotations", {}).get(ROLL) == "paused"
    if paused:
        return False if ours and ending <= budget else None
    return True if len(hashes) > 1 and ending > budget else None


def roll_patch(pause: bool) -> Object:
    """Pause a roll, or let it go on."""
    return {
        "metadata": {"annotations": {ROLL: "paused" if pause else None}},
        "spec": {"paused": True if pause else None},
    }


def deletion_cost(pod: Object) -> int:
    """What the ReplicaSet ranks Ready pods by: the lowest goes first."""
    try:
        return int(pod["metadata"].get("annotations", {}).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def mark_patch() -> Object:
    """A drain begins: of all Ready pods this one goes first."""
    return {"metadata": {"annotations": {DELETION_COST: DRAINING_COST, DRAIN: "scale-in"}}}


def seal_patch(now: float) -> Object:
    """The host has sealed itself: it goes before those that drain and those that sealed later, and may be evicted.
    ``now`` is on the wall clock."""
    return {
        "metadata": {
            "labels": {SEALED: "true"},
            "annotations": {
                DELETION_COST: str(_FIRST_SEALED + int(now) - _FIRST_SECOND),
                SAFE_TO_EVICT: "true",
                DO_NOT_DISRUPT: None,
            },
        }
    }


def unmark_patch() -> Object:
    """A drain is taken back: the host is protected again."""
    return {
        "metadata": {
            "labels": {SEALED: None},
            "annotations": {DELETION_COST: None, DRAIN: None, SAFE_TO_EVICT: "false", DO_NOT_DISRUPT: "true"},
        }
    }


def _condition(pod: Object, kind: str) -> Any:
    return next((c for c in pod.get("status", {}).get("conditions", ()) if c["type"] == kind), None)


def _seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()

"""kwok: nodes and pods that are objects alone, for tests with many of them."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.api import Object
from tests.cluster.assets import program
from tests.cluster.cluster import Cluster, until
from tests.cluster.control_plane import Program
from tests.cluster.simulated_hosts import REGISTERED

_STAGES = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ["True"]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      addresses:
      - {type: InternalIP, address: {{ NodeIP | Quote }}}
      conditions:
      {{ range NodeConditions }}
      - type: {{ .type | Quote }}
        status: {{ .status | Quote }}
        reason: {{ .reason | Quote }}
        lastHeartbeatTime: {{ $now | Quote }}
        lastTransitionTime: {{ $now | Quote }}
      {{ end }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-starts}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.podIP, operator: DoesNotExist}
  next:
    statusTemplate: |
      {{ $now := Now }}
      phase: Running
      startTime: {{ $now | Quote }}
      hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
      podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
      conditions:
      - {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
      - {type: ContainersReady, status: "False", lastTransitionTime: {{ $now | Quote }}}
      - {type: Ready, status: "False", lastTransitionTime: {{ $now | Quote }}}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchAnnotations: {REGISTERED: "true"}
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: In, values: ["False"]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      - {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
      - {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
      containerStatuses:
      {{ range .spec.containers }}
      - name: {{ .name | Quote }}
        image: {{ .image | Quote }}
        ready: true
        restartCount: 0
        state: {running: {startedAt: {{ $now | Quote }}}}
      {{ end }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-goes}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: Exists}
  next:
    finalizers: {empty: true}
    delete: true
"""


def start_kwok(cluster: Cluster, directory: Path, nodes: int) -> Program:
    """Start it, with so many nodes of 110 pods."""
    stages = directory / "kwok.yaml"
    stages.write_text(_STAGES.replace("REGISTERED", REGISTERED))
    command = [
        str(program("kwok")), f"--kubeconfig={cluster.plane.kubeconfig}", f"--config={stages}",
        "--manage-all-nodes", "--cidr=10.245.0.0/16", "--node-lease-duration-seconds=40", "--node-ip=10.244.0.1",
    ]  # fmt: skip
    made = Program("kwok", cluster.plane.namespace.command(command), directory, {"HOME": str(directory)})
    made.start()
    for number in range(nodes):
        cluster.api.create("/api/v1/nodes", _node(number))
    until(lambda: len(_ready(cluster)) == nodes, f"{nodes} nodes are ready", 60, every=1.0)
    return made


def _node(number: int) -> Object:
    labels = {"kubernetes.io/hostname": f"kwok-{number}", "kubernetes.io/os": "linux"}
    room = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    return {
        "metadata": {"name": f"kwok-{number}", "labels": labels},
        "status": {"allocatable": room, "capacity": room},
    }


def _ready(cluster: Cluster) -> list[Object]:
    return [
        node
        for node in cluster.api.items("/api/v1/nodes")
        if not node["spec"].get("taints")
        and any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    ]

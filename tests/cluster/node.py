"""``python -m tests.cluster.node``: stands in for the kubelet of one node.

It takes the pods that the scheduler bound to its node and runs each container's command as a real local process (see
``container.py``) in a network namespace of its own with its own address. It runs as process 1 of a process namespace,
so that killing it is the loss of the node: everything on it is gone at once, and nobody tells the API server.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import logging
import threading
import time
from pathlib import Path

from tests.cluster.api import Api, ApiError, Object
from tests.cluster.control_plane import API_PORT, NODE_ADDRESS
from tests.cluster.pod import Pod

log = logging.getLogger("node")

_LEASE_SECONDS = 3.0


class Node:
    """One node: its object, its Lease, and its pods."""

    def __init__(
        self,
        api: Api,
        name: str,
        number: int,
        directory: Path,
        capacity: dict[str, str],
        *,
        engine: bool = False,
    ) -> None:
        self._api, self._name, self._number, self._directory = api, name, number, directory
        self._engine = engine
        self._capacity = {
            "cpu": "16",
            "memory": "64Gi",
            "pods": "250",
            "ephemeral-storage": "50Gi",
            **capacity,
        }
        self._pods: dict[str, Pod] = {}
        self._next_address = 1

    def run(self) -> None:
        """Register and work until killed."""
        self._register()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        while True:
            try:
                self._watch()
            except ApiError as error:
                log.warning("watch: %s", error)
            except OSError as error:
                log.warning("the API server is away: %s", error)
            time.sleep(0.2)

    def _watch(self) -> None:
        selector = f"spec.nodeName={self._name}"
        listed = self._api.get("/api/v1/pods", fieldSelector=selector)
        for pod in listed["items"]:
            self._take(pod)
        version = listed["metadata"]["resourceVersion"]
        for kind, pod in self._api.watch("/api/v1/pods", fieldSelector=selector, resourceVersion=version):
            if kind == "DELETED":  # by force, or by us: whatever still runs is ended
                pod["metadata"].setdefault("deletionTimestamp", _micro_now())
                pod["metadata"].setdefault("deletionGracePeriodSeconds", 0)
            self._take(pod, gone=kind == "DELETED")

    def _take(self, pod: Object, *, gone: bool = False) -> None:
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if known is not None:
            known.update(pod)
            if known.done.is_set() and gone:
                del self._pods[uid]
        elif not gone and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            address = f"10.244.{self._number}.{self._next_address}"
            self._next_address = self._next_address % 253 + 1
            self._pods[uid] = made = Pod(
                self._api, pod, self._directory, address, NODE_ADDRESS, engine=self._engine
            )
            made.start()
        elif not gone and "deletionTimestamp" in pod["metadata"]:
            with contextlib.suppress(ApiError):
                self._api.delete(
                    f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}",
                    gracePeriodSeconds=0,
                )

    def _register(self) -> None:
        labels = {
            "kubernetes.io/hostname": self._name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": f"zone-{self._number}",
        }  # fmt: skip
        with contextlib.suppress(ApiError):  # it is there already, after a loss
            self._api.create("/api/v1/nodes", {"metadata": {"name": self._name, "labels": labels}})
        self._tell()

    def _tell(self) -> None:
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        conditions = [
            {
                "type": kind, "status": "True" if kind == "Ready" else "False", "reason": "Test", "message": "",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }
            for kind in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
        ]  # fmt: skip
        status = {
            "capacity": self._capacity, "allocatable": self._capacity, "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": NODE_ADDRESS}, {"type": "Hostname", "address": self._name},
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.37.2", "osImage": "test", "kernelVersion": "test", "architecture": "amd64",
                "operatingSystem": "linux", "containerRuntimeVersion": "test://1", "machineID": "", "systemUUID": "",
                "bootID": "", "kubeProxyVersion": "",
            },
        }  # fmt: skip
        self._api.patch(f"/api/v1/nodes/{self._name}/status", {"status": status})

    def _renew(self) -> None:
        leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        beat = 0
        while True:
            spec = {"holderIdentity": self._name, "leaseDurationSeconds": 40, "renewTime": _micro_now()}
            try:
                try:
                    self._api.patch(f"{leases}/{self._name}", {"spec": spec})
                except ApiError as error:
                    if error.status != 404:
                        raise
                    self._api.create(leases, {"metadata": {"name": self._name}, "spec": spec})
                if beat % 3 == 0:
                    self._tell()
                beat += 1
            except (ApiError, OSError) as error:
                log.warning("lease: %s", error)
            time.sleep(_LEASE_SECONDS)


def _micro_now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def main() -> None:
    """Run one node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--number", type=int, required=True, help="the third byte of its pods' addresses")
    parser.add_argument("--token", required=True)
    parser.add_argument("--authority", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--cpu", default="16")
    parser.add_argument("--engine", action="store_true", help="containers are podman's, from images")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    api = Api(NODE_ADDRESS, API_PORT, arguments.authority, arguments.token)
    node = Node(
        api,
        arguments.name,
        arguments.number,
        arguments.directory,
        {"cpu": arguments.cpu},
        engine=arguments.engine,
    )
    node.run()


if __name__ == "__main__":
    main()

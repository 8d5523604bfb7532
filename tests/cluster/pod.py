"""One pod on the node stand-in: network namespace, volumes, init containers, containers, probes, status, end."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.api import STRATEGIC, Api, ApiError, Object
from tests.cluster.container import Container, container_command
from tests.cluster.engine import engine_command
from tests.cluster.probes import Probe
from tests.cluster.volumes import MissingObject, Volumes, expand

log = logging.getLogger("node")

_TICK = 0.05
_REFRESH = 2.0
_BACK_OFF = (0.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before the next start of a container; a kubelet's are five times as long."""
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "K": 10**3, "M": 10**6, "G": 10**9, "": 1}


class _Run:
    """One container of the pod over all its starts."""

    def __init__(self, spec: Object) -> None:
        self.spec = spec
        self.container: Container | None = None
        self.probes: dict[str, Probe] = {}
        self.restarts = -1
        self.next_start = 0.0
        self.started_at = self.waiting = ""
        self.last: Object = {}
        self.ended: Object = {}

    @property
    def running(self) -> bool:
        return self.container is not None and self.container.exit_code is None

    @property
    def ready(self) -> bool:
        return self.running and all(
            self.probes[k].passing for k in ("startup", "readiness") if k in self.probes
        )


class Pod:
    """A pod that this node runs. Everything happens in its own thread; ``update`` hands it the newest object."""

    def __init__(
        self, api: Api, pod: Object, directory: Path, address: str, node_address: str, *, engine: bool = False
    ) -> None:
        self.object = pod
        self._engine = engine  # whether containers are an engine's, from images
        meta = pod["metadata"]
        self.uid, self.name, self.namespace = meta["uid"], meta["name"], meta["namespace"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.address = address
        self.done = threading.Event()
        self._api, self._node_address = api, node_address
        self._directory = directory / f"{self.namespace}_{self.name}_{self.uid[:8]}"
        self._directory.mkdir(parents=True)
        self._volumes = Volumes(api, self._directory / "volumes", lambda: self.object)
        self._runs = [_Run(spec) for spec in pod["spec"]["containers"]]
        self._init = [_Run(spec) for spec in pod["spec"].get("initContainers", [])]
        self._pause: subprocess.Popen[bytes] | None = None
        self._told: Object = {}
        self._since: dict[str, tuple[str, str]] = {}
        self._started = _now()
        self._thread = threading.Thread(target=self._live, name=f"pod-{self.name}", daemon=True)

    def start(self) -> None:
        """Begin its life."""
        self._thread.start()

    def update(self, pod: Object) -> None:
        """The API server has a newer object."""
        self.object = pod

    # ---- its life

    def _live(self) -> None:
        try:
            self._network()
            if self._prepare() and self._initialize():
                self._work()
            self._end()
        except Exception:
            log.exception("pod %s: a defect of the node stand-in", self.name)
        finally:
            self.done.set()

    @property
    def _leaving(self) -> bool:
        return "deletionTimestamp" in self.object["metadata"]

    def _network(self) -> None:
        script = "ip link set lo up && echo up && exec sleep infinity"
        self._pause = subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self._pause.stdout is not None
        self._pause.stdout.readline()
        link = f"p{self.uid[:8]}"
        inside = ["nsenter", f"--net=/proc/{self._pause.pid}/ns/net", "ip"]
        for command in (
            [
                "ip",
                "link",
                "add",
                link,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                str(self._pause.pid),
            ],
            ["ip", "link", "set", link, "up"],
            ["ip", "route", "add", f"{self.address}/32", "dev", link],
            [*inside, "addr", "add", f"{self.address}/32", "dev", "eth0"],
            [*inside, "link", "set", "eth0", "up"],
            [*inside, "route", "add", self._node_address, "dev", "eth0"],
            [*inside, "route", "add", "default", "via", self._node_address],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=10)
        search = f"{self.namespace}.svc.cluster.local svc.cluster.local cluster.local"
        (self._directory / "resolv.conf").write_text(
            f"nameserver 10.96.0.10\nsearch {search}\noptions ndots:5 timeout:1\n"
        )
        (self._directory / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")

    def _prepare(self) -> bool:
        """Volumes. False when the pod is to go before they can be made."""
        while not self._leaving:
            try:
                self._volumes.make()
                return True
            except (MissingObject, ApiError, OSError) as error:
                for run in self._runs:
                    run.waiting = "ContainerCreating"
                self._tell(message=str(error))
                time.sleep(0.5)
        return False

    def _initialize(self) -> bool:
        for run in self._init:
            while not (run.ended and run.ended["exitCode"] == 0):
                if self._leaving:
                    return False
                self._step(run, again=self.object["spec"].get("restartPolicy") != "Never")
                self._tell(initialized=False)
                time.sleep(_TICK)
        return True

    def _work(self) -> None:
        policy = self.object["spec"].get("restartPolicy", "Always")
        refreshed = time.monotonic()
        while not self._leaving:
            for run in self._runs:
                failed = bool(run.ended) and run.ended["exitCode"] != 0
                again = policy == "Always" or (policy == "OnFailure" and failed)
                self._step(run, again=again or run.restarts < 0)
            self._tell()
            if all(run.ended and not run.running and run.next_start == float("inf") for run in self._runs):
                while not self._leaving:  # finished: its object stays until somebody deletes it
                    time.sleep(0.2)
                return
            if time.monotonic() - refreshed > _REFRESH:
                refreshed = time.monotonic()
                with contextlib.suppress(MissingObject, ApiError, OSError):
                    self._volumes.refresh()
                if self._contradicted():
                    self._told = {}
            time.sleep(_TICK)

    def _step(self, run: _Run, *, again: bool) -> None:
        """Start what is to be started, note what has ended, and ask the probes that are due."""
        now = time.monotonic()
        if run.container is None:
            if again and now >= run.next_start:
                self._start(run)
            elif not again:
                run.next_start = float("inf")
            return
        if (status := run.container.exit_code) is not None:
            reason = run.container.reason or ("Completed" if status == 0 else "Error")
            run.last = run.ended = {
                "exitCode": status, "reason": reason, "startedAt": run.started_at, "finishedAt": _now(),
            }  # fmt: skip
            run.container, run.waiting = None, "CrashLoopBackOff"
            run.next_start = now + _BACK_OFF[min(run.restarts, len(_BACK_OFF) - 1)]
            return
        limit = _bytes(run.spec.get("resources", {}).get("limits", {}).get("memory", ""))
        if limit and run.container.resident_bytes() > limit:
            run.container.reason = "OOMKilled"
            run.container.signal(signal.SIGKILL)
            return
        self._probe(run, now)

    def _start(self, run: _Run) -> None:
        spec = run.spec
        try:
            environ = self._volumes.environment(spec, self.address)
        except (MissingObject, ApiError) as error:
            run.waiting, run.next_start = "CreateContainerConfigError", time.monotonic() + 1.0
            log.warning("pod %s: %s", self.name, error)
            return
        run.restarts += 1
        work = self._directory / f"{spec['name']}-{run.restarts}"
        work.mkdir()
        command = [expand(part, environ) for part in (*spec.get("command", []), *spec.get("args", []))]
        mounts = {v["name"]: self._volumes.path(v["name"]) for v in self.object["spec"].get("volumes", [])}
        run.container = self._container(spec, command, environ, mounts, work)
        run.started_at, run.waiting, run.ended = _now(), "", {}
        ports = {port["name"]: port["containerPort"] for port in spec.get("ports", []) if "name" in port}
        run.probes = {
            kind: Probe(spec[f"{kind}Probe"], ports, passing=kind == "liveness")
            for kind in ("startup", "readiness", "liveness")
            if f"{kind}Probe" in spec
        }

    def _container(
        self, spec: Object, command: list[str], environ: dict[str, str], mounts: dict[str, Path], work: Path
    ) -> Container:
        assert self._pause is not None
        log, pause = self._directory / f"{spec['name']}.log", self._pause.pid
        if not self._engine:
            return Container(container_command(spec, self.object, mounts, work, pause, command), environ, log)
        line = engine_command(spec, self.object, mounts, pause, command, environ, work)
        return Container(line, {**os.environ, **environ}, log, work / "process")

    def _probe(self, run: _Run, now: float) -> None:
        assert run.container is not None
        startup = run.probes.get("startup")
        due = [startup] if startup is not None and not startup.passing else list(run.probes.values())[-2:]
        for probe in due:
            if probe.due(now) and probe is not None:
                probe.ask(self.address, run.container)
        liveness = run.probes.get("liveness")
        if any(p is not None and p.failed for p in (startup, liveness)):
            log.warning("pod %s: probe failed, restarting %s", self.name, run.spec["name"])
            self._terminate([run], float(self.object["spec"].get("terminationGracePeriodSeconds", 30)))

    # ---- its end

    def _end(self) -> None:
        grace = float(self.object["metadata"].get("deletionGracePeriodSeconds", 30))
        self._terminate([*self._runs, *self._init], grace)
        failed = any(run.container is not None and run.container.exit_code for run in self._runs)
        for run in self._runs:
            self._step(run, again=False)
        self._tell(phase="Failed" if failed else "Succeeded")
        if self._pause is not None:
            self._pause.kill()
            self._pause.wait()
        for volume in self.object["spec"].get("volumes", []):
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                subprocess.run(
                    ["umount", str(self._volumes.path(volume["name"]))], check=False, capture_output=True
                )
        shutil.rmtree(self._directory / "volumes", ignore_errors=True)
        for _ in range(50):
            try:
                self._api.delete(self.path, gracePeriodSeconds=0, preconditions={"uid": self.uid})
                return
            except ApiError as error:
                if error.status in (404, 409):
                    return
                log.warning("pod %s: %s", self.name, error)
            except OSError as error:
                log.warning("pod %s: the API server is away: %s", self.name, error)
            time.sleep(2.0)

    def _terminate(self, runs: Sequence[_Run], grace: float) -> None:
        """preStop, SIGTERM, and SIGKILL after ``grace`` seconds; readiness is still told meanwhile."""
        end = time.monotonic() + grace
        live = [run for run in runs if run.running]
        for run in live:
            assert run.container is not None
            hook = run.spec.get("lifecycle", {}).get("preStop", {})
            if "exec" in hook:
                run.container.execute(hook["exec"]["command"], grace)
            elif "sleep" in hook:
                time.sleep(min(hook["sleep"]["seconds"], grace))
            run.container.signal(signal.SIGTERM)
        while any(run.running for run in live):
            if time.monotonic() > end:
                for run in live:
                    if run.container is not None:
                        run.container.signal(signal.SIGKILL)
                        run.container.wait(5.0)
                return
            for run in live:
                if (
                    run.running
                    and "readiness" in run.probes
                    and run.probes["readiness"].due(time.monotonic())
                ):
                    assert run.container is not None
                    run.probes["readiness"].ask(self.address, run.container)
            self._tell()
            time.sleep(_TICK)

    # ---- what the API server is told

    def _contradicted(self) -> bool:
        """Whether the API server has other conditions than it was told: after an outage the node controller takes all
        pods for lost, and a kubelet says again what they are."""
        have = {c["type"]: c["status"] for c in self.object.get("status", {}).get("conditions", [])}
        return any(have.get(c["type"]) != c["status"] for c in self._told.get("conditions", []))

    def _tell(self, *, phase: str = "", message: str = "", initialized: bool = True) -> None:
        status = self._status(phase, message, initialized)
        if status == self._told:
            return
        try:
            self._api.patch(
                f"{self.path}/status", {"metadata": {"uid": self.uid}, "status": status}, content=STRATEGIC
            )
            self._told = status
        except ApiError as error:
            if error.status not in (404, 409):
                log.warning("pod %s: %s", self.name, error)
            self._told = status
        except OSError:
            time.sleep(0.5)

    def _status(self, phase: str, message: str, initialized: bool) -> Object:
        ready = all(run.ready for run in self._runs) and not phase
        gates = [gate["conditionType"] for gate in self.object["spec"].get("readinessGates", [])]
        have = {c["type"]: c["status"] for c in self.object.get("status", {}).get("conditions", [])}
        all_ready = ready and all(have.get(gate) == "True" for gate in gates)
        if not phase:
            finished = [run.ended for run in self._runs if run.next_start == float("inf")]
            if len(finished) == len(self._runs):
                phase = "Failed" if any(e["exitCode"] for e in finished) else "Succeeded"
            else:
                phase = "Running" if any(run.restarts >= 0 for run in self._runs) else "Pending"
        conditions = [
            self._condition("PodReadyToStartContainers", True, ""),
            self._condition("Initialized", initialized, message),
            self._condition("ContainersReady", ready, message),
            self._condition("Ready", all_ready, message),
        ]
        return {
            "phase": phase, "conditions": conditions, "hostIP": self._node_address, "podIP": self.address,
            "podIPs": [{"ip": self.address}], "startTime": self._started,
            "containerStatuses": [self._container_status(run) for run in self._runs],
            **({"initContainerStatuses": [self._container_status(run) for run in self._init]} if self._init else {}),
        }  # fmt: skip

    def _condition(self, kind: str, value: bool, message: str) -> Object:
        status = "True" if value else "False"
        if self._since.get(kind, ("", ""))[0] != status:
            self._since[kind] = (status, _now())
        made: Object = {"type": kind, "status": status, "lastTransitionTime": self._since[kind][1]}
        if message and not value:
            made |= {"reason": "ContainersNotReady", "message": message}
        return made

    def _container_status(self, run: _Run) -> Object:
        state: dict[str, Any]
        if run.running:
            state = {"running": {"startedAt": run.started_at}}
        elif run.ended and (run.next_start == float("inf") or run in self._init):
            state = {"terminated": run.ended}
        else:
            state = {"waiting": {"reason": run.waiting or "ContainerCreating"}}
        started = run.running and ("startup" not in run.probes or run.probes["startup"].passing)
        return {
            "name": run.spec["name"], "image": run.spec["image"], "imageID": f"test://{run.spec['image']}",
            "containerID": f"test://{self.uid}/{run.spec['name']}/{run.restarts}", "ready": run.ready,
            "started": started, "restartCount": max(0, run.restarts), "state": state,
            "lastState": {"terminated": run.last} if run.last and run.running else {},
        }  # fmt: skip


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bytes(text: str) -> int:
    digits = text.rstrip("KMGi")
    return int(float(digits) * _UNITS[text[len(digits) :]]) if digits else 0

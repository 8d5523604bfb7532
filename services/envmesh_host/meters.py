"""The host's metrics: from the plain lists of the fast path into the registry, in one go."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from envmesh.v1 import environment_pb2 as pb
from envmesh_host.engine import Engine
from envmesh_host.servicer import EnvironmentServicer
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import LENGTH_BUCKETS, REWARD_BUCKETS, BoundedLabel, Registry

__all__ = ["HostMeters"]

KINDS: dict[int, str] = {
    number: name.removeprefix("COMMAND_KIND_").lower()
    for name, number in pb.CommandKind.items()
    if number != pb.COMMAND_KIND_UNSPECIFIED
}
OUTCOMES = ("terminated", "truncated", "failed", "closed")
FRAME_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
MAX_ENVIRONMENTS, MAX_COMPONENTS = 32, 16


class HostMeters:
    """Everything a host exports about its episodes; names and meanings in docs/metrics.md."""

    def __init__(self, registry: Registry, engine: Engine, servicer: EnvironmentServicer, lag: LoopLag):
        self._engine = engine
        self._servicer = servicer
        self._lag = lag
        self._environment = BoundedLabel(MAX_ENVIRONMENTS)
        self._component = BoundedLabel(MAX_COMPONENTS)
        known = [(self._environment(key),) for key in engine.hosted]
        histogram, counter = registry.histogram, registry.counter
        one = ("environment",)
        self.step = histogram(
            "envmesh_step_duration_seconds", "Environment's time in a step.", one, known=known
        )
        self.reset = histogram(
            "envmesh_reset_duration_seconds", "Environment's time in a reset.", one, known=known
        )
        self.reward = histogram(
            "envmesh_reward_duration_seconds", "Environment's time in a reward.", one, known=known
        )
        self.command = histogram(
            "envmesh_command_duration_seconds", "From a command's frame to its reply, on this host.", ("kind",),
            known=[("step",)],
        )  # fmt: skip
        self.returns = histogram(
            "envmesh_episode_reward", "Return of an episode.", one, REWARD_BUCKETS, known=known
        )
        self.lengths = histogram(
            "envmesh_episode_length_steps", "Steps of an episode.", one, LENGTH_BUCKETS, known
        )
        self.component = histogram(
            "envmesh_reward_component",
            "Named component of a reward.",
            ("environment", "component"),
            REWARD_BUCKETS,
        )
        self.frames = histogram("envmesh_frame_events", "Events a frame.", (), FRAME_BUCKETS)
        self.lag = histogram("envmesh_event_loop_lag_seconds", "How late the event loop ran.")
        self.commands = counter(
            "envmesh_commands_total", "Commands answered.", ("kind", "code", "reason"), [("step", "OK", "")]
        )
        self.episodes = counter(
            "envmesh_episodes_total", "Episodes that are over.", ("environment", "outcome"),
            [(*key, outcome) for key in known for outcome in OUTCOMES],
        )  # fmt: skip
        self.failures = counter("envmesh_failures_total", "Episodes that failed.", ("environment", "cause"))
        self.fenced = counter("envmesh_epochs_fenced_total", "Older copies dropped for a newer epoch.")
        registry.gauge("envmesh_slots", "Slots of this host.", ("state",), self._slots)
        registry.gauge("envmesh_live_episodes", "Episodes open here.", ("state",), self._live)

    def flush(self) -> None:
        """Take in what was observed since the last call; every second or so, which bounds the lists."""
        for environment in self._engine.hosted.values():
            label = self._environment(environment.key)
            seen = environment.take_observed()
            self.step.labels(label).observe_many(seen.step_seconds)
            if seen.step_batches:
                self.step.labels(label).observe_many(np.concatenate(seen.step_batches))
            self.reset.labels(label).observe_many(seen.reset_seconds)
            self.reward.labels(label).observe_many(seen.reward_seconds)
            self.returns.labels(label).observe_many(seen.returns)
            self.lengths.labels(label).observe_many(seen.lengths)
            for name, values in seen.components.items():
                self.component.labels(label, self._component(name)).observe_many(values)
            for outcome, count in seen.outcomes.items():
                self.episodes.add(count, label, outcome)
            for cause, count in seen.failures.items():
                self.failures.add(count, label, cause)
            for (kind, reason), count in seen.refused.items():
                self.commands.add(count, KINDS.get(kind, "other"), "ERROR", reason)
        for connection in self._servicer.connections.values():
            batches, connection.command_seconds = connection.command_seconds, []
            if batches:
                seconds = np.concatenate(batches)
                self.command.labels("step").observe_many(seconds)
                self.commands.add(len(seconds), "step", "OK", "")
            sizes, connection.frame_sizes = connection.frame_sizes, []
            self.frames.labels().observe_many(sizes)
        samples, self._lag.samples = self._lag.samples, []
        self.lag.labels().observe_many(samples)
        fenced = self.fenced.labels()
        fenced.value = float(self._engine.counts["fenced"])

    def _slots(self) -> Mapping[tuple[str, ...], float]:
        slots = self._engine.slots
        in_use, held = slots.in_use, slots.held
        free = max(0, slots.slots - held)
        return {
            ("in_use",): in_use,
            ("idle",): held - in_use - slots.stuck,
            ("free",): free,
            ("stuck",): slots.stuck,
        }

    def _live(self) -> Mapping[tuple[str, ...], float]:
        counts = dict.fromkeys(("running", "waiting", "ended", "detached"), 0)
        for copy in self._engine.episodes.values():
            state = "running" if copy.running is not None else "ended" if copy.ended else "waiting"
            counts["detached" if copy.connection is None and copy.handle else state] += 1
        return {(state,): float(count) for state, count in counts.items()}

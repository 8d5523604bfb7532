"""The host's metrics: from the plain lists of the fast path into the registry, in one go."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from envmesh.errors import Refusal
from envmesh.v1 import environment_pb2 as pb
from envmesh_host.copy import EpisodeCopy
from envmesh_host.descendants import Descendants
from envmesh_host.engine import Engine
from envmesh_host.hosted import Hosted
from envmesh_host.observed import Observed, Traffic
from envmesh_service.loop_lag import LoopLag
from envmesh_service.metrics import (
    COARSE_DURATION_BUCKETS,
    LENGTH_BUCKETS,
    REWARD_BUCKETS,
    SLOW_DURATION_BUCKETS,
    BoundedLabel,
    Exemplar,
    Histogram,
    HistogramSeries,
    Registry,
)

__all__ = ["HostMeters"]

KINDS: dict[int, str] = {
    number: name.removeprefix("COMMAND_KIND_").lower()
    for name, number in pb.CommandKind.items()
    if number != pb.COMMAND_KIND_UNSPECIFIED
}
OUTCOMES = ("terminated", "truncated", "failed", "closed")
FRAME_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0)
OTHER = ("other", "other")

MAX_ENVIRONMENTS, MAX_COMPONENTS, MAX_CAUSES, MAX_REFUSALS = 32, 16, 48, 48
"""Label sets at most, the one of all others included: environments by version, reward components of all of them,
their causes of failure, and kinds of command by the reason they were refused for."""


class HostMeters:
    """Everything a host exports about its episodes; names and meanings in docs/metrics.md."""

    def __init__(self, registry: Registry, engine: Engine, lag: LoopLag):
        self._engine, self._lag, self._registry = engine, lag, registry
        self._environment = BoundedLabel(MAX_ENVIRONMENTS - 1)
        self._bounds = {
            "component": BoundedLabel(MAX_COMPONENTS - 1),
            "cause": BoundedLabel(MAX_CAUSES - 1),
            "refusal": BoundedLabel(MAX_REFUSALS - 1),
        }
        known = list(dict.fromkeys(self._labels(hosted) for hosted in engine.hosted.values()))
        self._register_environments(known)
        self._register_traffic()
        self._register_recovery()
        self._register_state()

    # ---- what there is

    def _register_environments(self, known: Sequence[tuple[str, str]]) -> None:
        counter, histogram = self._registry.counter, self._registry.histogram
        one = ("environment", "version")

        def duration(
            what: str, documentation: str, buckets: Sequence[float] = SLOW_DURATION_BUCKETS
        ) -> Histogram:
            return histogram(f"envmesh_{what}_duration_seconds", documentation, one, buckets, known)

        self.step = duration(
            "step", "The environment's own time in a step, in seconds.", COARSE_DURATION_BUCKETS
        )
        self.reset = duration("reset", "The environment's own time in a reset, in seconds.")
        self.reward = duration("reward", "The environment's own time in a reward(), in seconds.")
        self.returns = histogram(
            "envmesh_episode_reward", "Return of an episode that ended by itself.", one, REWARD_BUCKETS, known
        )
        self.lengths = histogram(
            "envmesh_episode_length_steps",
            "Steps of an episode that ended by itself.",
            one,
            LENGTH_BUCKETS,
            known,
        )
        self.component = histogram(
            "envmesh_reward_component",
            "A named component of a reward().",
            (*one, "component"),
            REWARD_BUCKETS,
        )
        self.grades = counter(
            "envmesh_grades_total", "Replies to reward(), by whether they were valid.", (*one, "valid"),
            [(*key, valid) for key in known for valid in ("true", "false")],
        )  # fmt: skip
        self.episodes = counter(
            "envmesh_episodes_total", "Episodes that are over.", (*one, "outcome"),
            [(*key, outcome) for key in known for outcome in OUTCOMES],
        )  # fmt: skip
        self.failures = counter(
            "envmesh_failures_total", "Episodes that ended without an outcome.", (*one, "cause")
        )
        self.tool_calls = counter(
            "envmesh_tool_calls_total",
            "Calls of tools, where the action space lists them: carried out, failed (as the info says), or refused.",
            (*one, "result"),
        )
        self.action_bytes = counter(
            "envmesh_action_bytes_total", "Bytes of the actions of steps.", one, known
        )
        self.observation_bytes = counter(
            "envmesh_observation_bytes_total", "Bytes of the observations of steps.", one, known
        )

    def _register_traffic(self) -> None:
        counter, histogram = self._registry.counter, self._registry.histogram
        self.commands = counter(
            "envmesh_commands_total", "Commands answered, over the stream or one by one.", ("kind", "code", "reason"),
            [(kind, "OK", "") for kind in KINDS.values()],
        )  # fmt: skip
        self.command = histogram(
            "envmesh_command_duration_seconds", "From a command's arrival at this host to its reply, in seconds.",
            ("kind",), COARSE_DURATION_BUCKETS, [(kind,) for kind in ("step", "reset")],
        )  # fmt: skip
        self.overhead = histogram(
            "envmesh_step_overhead_seconds",
            "What a step on this host took beyond its environment: decoding, waiting, worker transport; in seconds.",
        )
        self.frames = histogram(
            "envmesh_frame_events", "Events in a frame sent to a client.", (), FRAME_BUCKETS
        )
        self.frames_in = counter("envmesh_frames_received_total", "Frames received from clients.")
        self.stream_bytes = counter(
            "envmesh_stream_bytes_total", "Bytes of frames.", ("direction",), [("received",), ("sent",)]
        )
        self.lag = histogram("envmesh_event_loop_lag_seconds", "How late the event loop runs, in seconds.")

    def _register_recovery(self) -> None:
        counter, histogram = self._registry.counter, self._registry.histogram
        self.resumes = counter(
            "envmesh_resumes_total", "Episodes resumed on this host.", ("kind", "cause"),
            [("takeover", "reconnect"), ("takeover", "attach"), ("replay", "rebuild"), ("checkpoint", "rebuild")],
        )  # fmt: skip
        self.resume = histogram(
            "envmesh_resume_duration_seconds", "From a Resume's arrival to its reply, in seconds.",
        )  # fmt: skip
        self.replayed = counter("envmesh_replayed_steps_total", "Steps that resumed journals held.")
        self.divergences = counter(
            "envmesh_replay_divergences_total", "Replays whose outcome was not the one recorded."
        )
        self.fenced = counter("envmesh_epochs_fenced_total", "Older copies dropped for a newer epoch.")
        self.checkpoints = counter(
            "envmesh_checkpoints_total", "Checkpoints taken.", ("store",),
            [("journal",), ("store",)],
        )  # fmt: skip
        self.checkpoint_failures = counter(
            "envmesh_checkpoint_failures_total", "Checkpoints that could not be taken or stored."
        )
        self.checkpoint_bytes = counter("envmesh_checkpoint_bytes_total", "Bytes of the checkpoints taken.")
        self.deaths = counter(
            "envmesh_worker_deaths_total", "Worker processes that ended without having been asked to.", ("cause",),
            [("crashed",), ("killed",), ("overran",)],
        )  # fmt: skip

    def _register_state(self) -> None:
        gauge, engine = self._registry.gauge, self._engine
        gauge("envmesh_slots", "Slots of this host.", ("state",), self._slots)
        gauge("envmesh_live_episodes", "Episodes open here.", ("state",), self._live)
        gauge(
            "envmesh_oldest_step_seconds",
            "Age of the oldest command that runs, in seconds.",
            (),
            self._oldest,
        )
        gauge(
            "envmesh_oldest_drain_seconds", "Age of the drain under way, in seconds; 0 without one.", (),
            lambda: {(): engine.clock() - engine.draining_since if engine.draining else 0.0},
        )  # fmt: skip
        gauge(
            "envmesh_other_label_values", "Different values that count as `other`, by what they are of.", ("what",),
            lambda: {(what,): float(bound.overflowed)
                     for what, bound in ({"environment": self._environment} | self._bounds).items()},
        )  # fmt: skip
        gauge("envmesh_leaked_slots", "Slots in use by no live episode; always 0.", (), self._leaked)
        descendants = Descendants()
        self._descendants = descendants
        gauge(
            "envmesh_worker_processes", "Processes below this one: workers, their forkserver, and what they start.", (),
            lambda: {(): float(descendants.count)},
        )  # fmt: skip
        gauge(
            "envmesh_worker_memory_bytes", "Resident memory of the processes below this one, in bytes.", (),
            lambda: {(): float(descendants.memory_bytes)},
        )  # fmt: skip
        self.worker_cpu = self._registry.counter(
            "envmesh_worker_cpu_seconds_total", "CPU time of the processes below this one, in seconds."
        )

    # ---- taking in

    def flush(self) -> None:
        """Take in what was observed since the last call; every second or so, which bounds the lists."""
        for hosted in self._engine.hosted.values():
            self._take_environment(self._labels(hosted), hosted.take_observed())
        self._take_traffic(self._engine.take_traffic())
        samples, self._lag.samples = self._lag.samples, []
        self.lag.labels().observe_many(samples)
        self.fenced.labels().value = float(self._engine.counts["fenced"])
        self.divergences.labels().value = float(self._engine.counts["diverged"])
        for hosted in self._engine.hosted.values():
            deaths = getattr(hosted.runner, "deaths", None)
            while deaths:
                cause, count = deaths.popitem()
                self.deaths.add(count, cause)
        self.worker_cpu.add(self._descendants.look())

    def _take_environment(self, labels: tuple[str, str], seen: Observed) -> None:
        step = self.step.labels(*labels)
        running, total = np.asarray(seen.step_seconds), np.asarray(seen.step_totals)
        step.observe_many(running)
        self.command.labels("step").observe_many(total)
        self.overhead.labels().observe_many(np.maximum(0.0, total - running))
        if seen.step_times.steps:
            timed = seen.step_times.timed()
            step.observe_many(timed.running, timed.running_counts)
            self.command.labels("step").observe_many(timed.elapsed, timed.counts)
            self.overhead.labels().observe_many(timed.waited, timed.counts)
        self.reset.labels(*labels).observe_many(seen.reset_seconds)
        self.command.labels("reset").observe_many(seen.reset_totals)
        self.reward.labels(*labels).observe_many(seen.reward_seconds)
        self.returns.labels(*labels).observe_many(seen.returns)
        self.lengths.labels(*labels).observe_many(seen.lengths)
        self.action_bytes.add(seen.action_bytes, *labels)
        self.observation_bytes.add(seen.observation_bytes, *labels)
        for name, values in seen.components.items():
            self._component(labels, name).observe_many(values)
        for valid, count in seen.grades.items():
            self.grades.add(count, *labels, "true" if valid else "false")
        for result, count in seen.tool_calls.items():
            self.tool_calls.add(count, *labels, result)
        for outcome, count in seen.outcomes.items():
            self.episodes.add(count, *labels, outcome)
        for cause, count in seen.failures.items():
            self.failures.add(count, *self._bounded("cause", *labels, cause))

    def _take_traffic(self, seen: Traffic) -> None:
        for (kind, reason), count in seen.commands.items():
            name = KINDS.get(kind, "other")
            if not reason:
                self.commands.add(count, name, "OK", "")
                continue
            code = "".join(part.title() for part in Refusal("", reason=reason).code.name.split("_"))
            self.commands.add(count, *self._bounded("refusal", name, code, reason))
        for kind, seconds in seen.seconds.items():
            self.command.labels(KINDS.get(kind, "other")).observe_many(seconds)
        self.frames.labels().observe_many(seen.frame_sizes)
        self.frames_in.add(seen.frames_in)
        self.stream_bytes.add(seen.bytes_in, "received")
        self.stream_bytes.add(seen.bytes_out, "sent")
        for (how, cause), count in seen.resumes.items():
            self.resumes.add(count, how, cause)
        self.resume.labels().observe_many(seen.resume_seconds)
        self.replayed.add(seen.replayed_steps)
        for store, (count, size) in seen.checkpoints.items():
            self.checkpoints.add(count, store)
            self.checkpoint_bytes.add(size)
        self.checkpoint_failures.add(seen.checkpoint_failures)

    def show(self, copy: EpisodeCopy, kind: int, seconds: float, trace_id: str) -> None:
        """A traced command took so long in its environment: its bucket points to the trace."""
        into: dict[int, Histogram] = {
            pb.COMMAND_KIND_STEP: self.step, pb.COMMAND_KIND_RESET: self.reset, pb.COMMAND_KIND_REWARD: self.reward,
        }  # fmt: skip
        if kind in into:
            series = into[kind].labels(*self._labels(copy.environment))
            series.show(Exemplar({"trace_id": trace_id}, seconds, time.time()))
        elif kind == pb.COMMAND_KIND_RESUME:
            self.resume.labels().show(Exemplar({"trace_id": trace_id}, seconds, time.time()))

    def step_buckets(self, hosted: Hosted) -> list[int]:
        """The environment's steps by their duration, in COARSE_DURATION_BUCKETS and beyond; empty where it shares its
        label with others."""
        labels = self._labels(hosted)
        return [] if labels == OTHER else list(self.step.labels(*labels).counts)

    # ---- labels within their bounds

    def _labels(self, hosted: Hosted) -> tuple[str, str]:
        return (
            (hosted.info.name, hosted.info.version) if self._environment(hosted.key) == hosted.key else OTHER
        )

    def _component(self, labels: tuple[str, str], name: str) -> HistogramSeries:
        return self.component.labels(*self._bounded("component", *labels, name))

    def _bounded(self, bound: str, *values: str) -> tuple[str, ...]:
        joined = "\0".join(values)
        return values if self._bounds[bound](joined) == joined else ("other",) * len(values)

    # ---- what is looked up

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

    def _oldest(self) -> Mapping[tuple[str, ...], float]:
        running = (copy.running for copy in self._engine.episodes.values())
        begun = min((step.begun for step in running if step is not None and step.begun), default=None)
        return {(): 0.0 if begun is None else time.perf_counter() - begun}

    def _leaked(self) -> Mapping[tuple[str, ...], float]:
        episodes = self._engine.episodes
        leaked = sum(
            episode not in episodes for holding in self._engine.slots for episode in holding.episodes
        )
        return {(): float(leaked)}

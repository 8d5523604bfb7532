"""Episodes that do not begin with a reset: branches, detached ones, and those that another process has left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from envmesh.beginnings import spec_as_written
from envmesh.env import Recovery
from envmesh.episode_session import ELSEWHERE
from envmesh.episode_trace import begin_trace
from envmesh.errors import EnvmeshError, InvalidRequest, MeshUnavailable, NotFound, Unsupported
from envmesh.journal import Journal
from envmesh.outcome import make_outcome, outcome_of_message
from envmesh.slot import AttachedSlot, FormerHost, Slot, StandInBinding
from envmesh.v1 import environment_pb2 as pb

if TYPE_CHECKING:
    from envmesh.journal_records import Unfinished
    from envmesh.session import Episode

__all__ = ["fork", "take_over", "take_up"]

PATIENCE_BEYOND_LIMIT = 30.0
"""Seconds that a caller waits longer than the environment may run, by default."""


async def take_over(episode: Episode, state: dict[str, Any]) -> None:
    """Become the owner of a detached episode (``mesh.attach``): of its copy if that lives, else of a new one."""
    episode.episode_id = state["episode_id"]
    episode.epoch = ((state["epoch"] >> 32) + 1) << 32
    episode.index, episode.flags, episode.journal = state["index"], state["flags"], state["journal"]
    episode._annotations = state.get("annotations")
    try:
        connection = await episode._mesh.connection(state["address"], state["host_id"], state["metadata"])
        await _resume(episode, Slot(AttachedSlot(connection, episode.spec)), state["attach_token"])
    except (NotFound, MeshUnavailable):
        if not episode.journaled:
            raise
        episode.epoch += 1
        await _resume_in_new_slot(episode)
    last: pb.Outcome = state["last"]
    if last.digest == episode.last_digest:
        episode._last = outcome_of_message(last, episode.spec)


async def fork(episode: Episode, n: int, reseed: bool, timeout: float | None) -> list[Episode]:
    """See ``Episode.fork``."""
    episode._mesh.check_usable()
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InvalidRequest(f"n is a whole number of at least 1; got {n!r}")
    if episode.awaited:
        raise InvalidRequest(
            "a command of this episode is being awaited; fork between steps", reason="STEP_CONFLICT"
        )
    if reseed and not episode.spec.message.reseeds:
        raise Unsupported(f"{episode.spec.key} has no reseed(); its branches share their randomness")
    if episode.spec.recovery is Recovery.STATE and not episode.done:
        await episode.checkpoint()
    if not episode.journaled:
        raise Unsupported(
            f"an episode of {episode.spec.key} (class {episode.spec.recovery.value}) cannot be forked: "
            "nothing says how to come to where it is"
        )
    branches = [_branch(episode, reseed, timeout) for _ in range(n)]
    try:
        async with asyncio.TaskGroup() as group:
            for branch in branches:
                name = f"envmesh-fork-{branch.episode_id.hex()[:8]}"
                group.create_task(_resume_in_new_slot(branch), name=name)
        episode._mesh.check_usable()  # where the client was closed meanwhile, no branch has a slot
    except BaseException as error:  # a cancellation too: none is left to nobody
        for branch in branches:
            await branch.close()
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from None
        raise
    return branches


def _branch(episode: Episode, reseed: bool, timeout: float | None) -> Episode:
    assert episode.journal is not None
    branch = type(episode)(
        episode._mesh,
        episode._pool,
        episode.spec,
        episode.beginning,
        episode._timeout if timeout is None else timeout,
        episode.step_timeout,
    )
    branch.index, branch.flags, branch._last = episode.index, episode.flags, episode._last
    branch._annotations = dict(episode.annotations)
    branch.journal = Journal.unpacked(episode.journal.packed())
    if reseed:
        branch.journal.reseed(episode._mesh.draw_seed())
    return branch


async def _resume(episode: Episode, slot: Slot, attach_token: bytes = b"") -> None:
    """Become the owner of a copy in this slot."""
    episode._slot = slot
    episode._handle = slot.connection.bind(episode)
    episode._mesh.episodes.add(episode)
    request = pb.ResumeRequest(
        episode_id=episode.episode_id,
        epoch=episode.epoch,
        lease_number=slot.binding.number,
        attach_token=attach_token,
        traceparent=begin_trace(episode, slot),
        journal=episode.journal.message() if episode.journaled and episode.journal is not None else None,
    ).SerializeToString()
    most = slot.connection.max_value_bytes
    if len(request) > most:  # which would end the connection, for all that is on it
        episode._leave(give_back=True)
        raise InvalidRequest(
            f"its journal has {len(request):,} bytes; host {slot.connection.address} takes {most:,}",
            reason="MESSAGE_TOO_LARGE",
        )
    limit = episode.spec.limits.reset_seconds + PATIENCE_BEYOND_LIMIT
    try:
        data = await episode._command(episode.index, pb.COMMAND_KIND_RESUME, request, limit)
    except BaseException as error:
        if isinstance(slot.binding, AttachedSlot):
            # The copy there may be another client's, or be attached again.
            episode.abandon_rebuild()
            episode._leave(give_back=False)
        elif isinstance(error, EnvmeshError):
            episode.not_begun(error)
        else:  # a cancellation: nobody will close what has begun
            await episode.close()
        raise
    episode._last = outcome_of_message(pb.ResumeResponse.FromString(data).last, episode.spec)


async def _resume_in_new_slot(episode: Episode) -> None:
    """Rebuild the episode from its journal. Raises: as for a slot, and EpisodeAborted."""
    key = episode.spec.key
    loop = asyncio.get_running_loop()
    until = loop.time() + episode._timeout
    while True:
        slot = await episode.pool.take(max(0.0, until - loop.time()))
        served = slot.binding.spec
        if served is None or served.key != key:  # by the name that it was begun by, another version comes now
            episode.pool.give(slot)
            episode._pool = episode._mesh.pool(key)
            continue
        try:
            return await _resume(episode, slot)
        except EnvmeshError as error:
            if error.reason not in ELSEWHERE or loop.time() >= until:
                raise
        episode.epoch += 1


def take_up(episode: Episode, unfinished: Unfinished) -> None:
    """Go on with an episode that another process began (``mesh.resume``)."""
    journal = episode._mesh.journal
    assert journal is not None
    episode.spec = spec_as_written(episode.spec, unfinished.beginning)
    episode.log = journal.log_of(unfinished)
    episode.episode_id, episode.epoch = unfinished.episode_id, journal.owner << 32
    episode.index = unfinished.index
    episode._annotations = dict(unfinished.annotations)
    payload, reward, episode.flags, digest, info = unfinished.rows[-1]
    decode = None if episode.spec.agents else episode.spec.observation_codec.decode
    episode._last = make_outcome(episode.index, payload, reward, episode.flags, digest, info, decode)
    if episode.keeps_journal:
        sealed = pb.SealedCheckpoint.FromString(unfinished.checkpoint) if unfinished.checkpoint else None
        digests = [row[3] for row in unfinished.rows]
        reset = episode.beginning.entry(episode.spec)
        episode.journal = Journal.of(reset, digests, unfinished.actions, sealed)
    if len(unfinished.actions) > episode.index:
        episode.expect(episode.index + 1, unfinished.actions[-1])
        episode._out = (episode.index + 1, pb.COMMAND_KIND_STEP, unfinished.actions[-1])
    episode._slot = Slot(StandInBinding(FormerHost(*unfinished.host), episode.spec))
    episode._handle = 1
    episode._mesh.episodes.add(episode)
    episode._mesh.recovery.take_up(episode, *unfinished.host)

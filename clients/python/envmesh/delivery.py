"""What came on a connection, given to those whom it is for: whole columns to blocks, the rest to sessions, row by row
(pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from envmesh.blocks import Block, columns_of, deliver_to_a_block, deliver_to_blocks
from envmesh.lone_frames import Outcome
from envmesh.v1 import environment_pb2 as pb

__all__ = ["Delivery", "Session"]

OUTCOME, NOTICE = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_NOTICE


class Session(Protocol):
    """Whom events of one handle are for."""

    @property
    def expected(self) -> int:
        """The index whose outcome is awaited; another outcome is an echo and is dropped."""
        ...

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        """The awaited reset or step succeeded."""
        ...

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        """Anything else, a failure included."""
        ...

    def fell(self, error: Any) -> None:
        """Nothing comes any more: the connection is gone for good, or what the handle names."""
        ...


class Delivery:
    """``sessions`` by handle, and the ``blocks`` that are asked before them. What a session raises is its own affair:
    ``on_defect`` hears of it (handle, session, error), and the rows that follow go on."""

    def __init__(
        self, on_notice: Callable[[pb.Notice], None], on_defect: Callable[[int, Session, Exception], None]
    ):
        self.sessions: dict[int, Session] = {}
        self.blocks: list[Block] = []
        self._on_notice = on_notice
        self._on_defect = on_defect

    def deliver_alone(self, handle: int, outcome: Outcome) -> None:
        """An outcome that came by itself."""
        if not deliver_to_a_block(self.blocks, handle, outcome):
            session = self.sessions.get(handle)
            if session is not None and session.expected == outcome[0]:
                try:
                    session.on_outcome(*outcome)
                except Exception as error:
                    self._on_defect(handle, session, error)

    def deliver(self, frame: pb.StreamResponse) -> None:
        """The rows of a frame."""
        handles = list(frame.handles)
        if not handles:
            return
        columns = columns_of(frame, handles)
        if self.blocks:
            left = deliver_to_blocks(self.blocks, columns)
            if left is None:
                return
            columns = left
        handles, indices, payloads, rewards, flags, digests, infos, kinds = columns
        sessions = self.sessions.get
        if kinds is None:
            for handle, index, payload, reward, flag, digest, info in zip(
                handles, indices, payloads, rewards, flags, digests, infos, strict=True
            ):
                session = sessions(handle)
                if session is not None and session.expected == index:
                    try:
                        session.on_outcome(index, payload, reward, flag, digest, info)
                    except Exception as error:
                        self._on_defect(handle, session, error)
            return
        for handle, index, payload, reward, flag, digest, info, kind in zip(
            handles, indices, payloads, rewards, flags, digests, infos, kinds, strict=True
        ):
            if kind == NOTICE:
                self._on_notice(pb.Notice.FromString(payload))
            elif (session := sessions(handle)) is not None:
                try:
                    if kind != OUTCOME:
                        session.on_event(kind, index, payload)
                    elif session.expected == index:
                        session.on_outcome(index, payload, reward, flag, digest, info)
                except Exception as error:
                    self._on_defect(handle, session, error)

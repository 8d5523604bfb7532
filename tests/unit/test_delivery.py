"""What came on a connection, given to those whom it is for."""

from __future__ import annotations

from typing import Any

from envmesh.delivery import Delivery, Session
from envmesh.v1 import environment_pb2 as pb

OUTCOME, FAILURE, NOTICE = pb.EVENT_KIND_OUTCOME, pb.EVENT_KIND_FAILURE, pb.EVENT_KIND_NOTICE


class Noting:
    """A session that notes what it hears; with a ``defect`` it raises that."""

    def __init__(self, expected: int, defect: Exception | None = None):
        self.expected = expected
        self.heard: list[Any] = []
        self._defect = defect

    def on_outcome(
        self, index: int, payload: bytes, reward: float, flags: int, digest: int, info: bytes
    ) -> None:
        self._hear((index, payload, reward))

    def on_event(self, kind: int, index: int, payload: bytes) -> None:
        self._hear((kind, index, payload))

    def fell(self, error: Any) -> None:
        self._hear(error)

    def _hear(self, what: Any) -> None:
        if self._defect is not None:
            raise self._defect
        self.heard.append(what)


class Heard:
    """A delivery, and what it says of notices and defects."""

    def __init__(self, **sessions: Session):
        self.notices: list[pb.Notice] = []
        self.defects: list[tuple[int, Session, Exception]] = []
        self.delivery = Delivery(self.notices.append, lambda *defect: self.defects.append(defect))
        self.delivery.sessions.update({int(name[1:]): session for name, session in sessions.items()})


def test_rows_go_to_their_sessions_and_echoes_are_dropped():
    first, second = Noting(expected=1), Noting(expected=5)
    heard = Heard(h1=first, h2=second)
    frame = pb.StreamResponse(
        handles=[1, 2, 3], indices=[1, 4, 1], payloads=[b"a", b"b", b"c"], rewards=[0.5, 1, 1]
    )
    heard.delivery.deliver(frame)
    assert (first.heard, second.heard) == ([(1, b"a", 0.5)], [])
    heard.delivery.deliver_alone(2, (5, b"d", 2.0, 0, 0, b""))
    heard.delivery.deliver_alone(3, (5, b"d", 2.0, 0, 0, b""))
    assert second.heard == [(5, b"d", 2.0)]


def test_events_of_every_kind():
    session = Noting(expected=2)
    heard = Heard(h1=session)
    notice = pb.Notice(kind=pb.NOTICE_KIND_DRAINING)
    frame = pb.StreamResponse(
        handles=[1, 0, 1], indices=[0, 0, 2], kinds=[FAILURE, NOTICE, OUTCOME],
        payloads=[b"why", notice.SerializeToString(), b"a"],
    )  # fmt: skip
    heard.delivery.deliver(frame)
    assert session.heard == [(FAILURE, 0, b"why"), (2, b"a", 0.0)]
    assert heard.notices == [notice]


def test_a_defect_at_one_session_harms_no_other():
    defect = RuntimeError("a defect")
    broken, whole = Noting(expected=1, defect=defect), Noting(expected=1)
    heard = Heard(h1=broken, h2=whole)
    heard.delivery.deliver(pb.StreamResponse(handles=[1, 2], indices=[1, 1], payloads=[b"a", b"b"]))
    heard.delivery.deliver_alone(1, (1, b"c", 0.0, 0, 0, b""))
    heard.delivery.deliver(
        pb.StreamResponse(
            handles=[1, 1, 2], indices=[1, 1, 0], payloads=[b"", b"", b"d"], kinds=[OUTCOME, FAILURE, FAILURE]
        )
    )
    assert heard.defects == [(1, broken, defect)] * 4
    assert whole.heard == [(1, b"b", 0.0), (FAILURE, 0, b"d")]

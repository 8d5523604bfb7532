"""Hosts as processes: they end when they like, also while something is done about them."""

from collections.abc import Callable

from envmesh_autoscaler.backends.processes import ProcessBackend
from envmesh_autoscaler.pools import ScaledPool

POOL = ScaledPool(name="walk", environments=("walk@1",))


class Launched:
    """Notes what is started and what is asked to end; ``ended`` has what a test calls when a process is no more."""

    def __init__(self) -> None:
        self.ended: dict[str, Callable[[], None]] = {}
        self.asked: list[str] = []

    def start(self, pool: str, host_id: str, ready: Callable[[], None], ended: Callable[[], None]) -> None:
        ready()
        self.ended[host_id] = ended

    def end(self, host_id: str) -> None:
        self.asked.append(host_id)


async def test_nothing_is_done_about_a_host_that_has_ended_by_itself():
    launched, ids = Launched(), iter("abcd")
    backend = ProcessBackend(launched, lambda: 1000.0, lambda pool: next(ids))
    await backend.scale(POOL, 3, ())
    launched.ended["b"]()
    for act in (backend.mark, backend.seal, backend.unmark, backend.mark):
        await act(POOL, ["a", "b"])
    await backend.scale(POOL, 1, ["a", "b"])
    assert launched.asked == ["a"]
    seen = backend.observe(POOL, 1001.0)
    assert [(each.host_id, each.ours) for each in seen.instances] == [("c", False)]
    assert seen.going == {"a"}

"""What becomes of an episode that lost its copy, where the table of docs/protocol.md says nothing of it: resets."""

from envmesh.env import Recovery
from envmesh.rebuild import Judgement, Loss, Standing, Suspicion, Way, judge_loss


def judged(deaths: int, *, alone: bool) -> Judgement:
    """The judgement of a worker's death under a reset that is held to have done it so often before."""
    suspicion = Suspicion(0, deaths) if deaths else None
    standing = Standing(
        recovery=Recovery.REPLAY, index=-1, running=True, journaled=False, suspicion=suspicion, alone=alone
    )
    return judge_loss(standing, Loss.WORKER_CRASHED, poison_losses=2)


def test_a_reset_is_convicted_one_death_later_than_a_step():
    assert judged(0, alone=False) == Judgement(Way.HERE, "", Suspicion(0, 1))
    assert judged(1, alone=True) == Judgement(Way.HERE, "", Suspicion(0, 2))
    assert judged(2, alone=True) == Judgement(Way.FALL, "POISON", Suspicion(0, 3))


def test_a_reset_that_was_not_alone_is_not_suspected_any_more_than_before():
    assert judged(2, alone=False) == Judgement(Way.HERE, "", Suspicion(0, 2))

from envmesh.lost_host import MOST_PAUSE, pause_again


def test_a_host_that_is_lost_each_time_it_is_reached_is_tried_less_and_less():
    pauses, pause = [], 0.0
    for _ in range(8):
        pause = pause_again(0.1, pause)
        pauses.append(pause)
    assert pauses == sorted(pauses)
    assert pauses[0] > 0
    assert pauses[-1] == MOST_PAUSE


def test_a_first_loss_and_one_long_after_the_last_are_tried_at_once():
    assert pause_again(float("inf"), 0.0) == 0.0
    assert pause_again(60.0, MOST_PAUSE) == 0.0

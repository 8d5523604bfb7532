"""Every row of the state tables of docs/protocol.md is walked by a test, which is named here.

The tables of losses, of errors and of commands are walked row by row in ``test_protocol_page.py``.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")

AGAIN = "compliance/test_same_command_again.py::test_"
EPOCHS = "compliance/test_epochs.py::test_"
LEASES = "compliance/test_leases.py::test_"
RESUME = "compliance/test_resume.py::test_"
SAVED = "compliance/test_reward_and_checkpoint.py::test_"
ATTACH = "compliance/test_attach.py::test_"
DRAIN = "compliance/test_draining.py::test_"
FRAMES = "compliance/test_frames.py::test_"
CLOSED = "integration/test_closed_mesh.py::test_"
STORE = "integration/test_checkpoints.py::test_"
FLEET = "integration/test_broker_fleet.py::test_"

WALKED = {
    "the host holds | and gets | it does": [
        AGAIN + "nothing_for_this_index_and_the_one_before_is_done_it_acts",
        AGAIN + "still_running_and_the_same_waits_and_answers_both",
        AGAIN + "its_reply_and_the_same_the_cached_reply",
        AGAIN + "its_reply_and_another_action_conflict",
        AGAIN + "an_older_index_or_one_too_far_ahead",
        AGAIN + "an_ended_episode_and_a_new_step",
        "compliance/test_outcomes.py::test_a_failure_is_never_a_reward",
        AGAIN + "nothing_at_all_and_a_step",
        AGAIN + "close_is_for_every_state",
    ],
    "the copy's epoch is | the command | the host": [
        EPOCHS + "an_older_epoch_is_refused",
        EPOCHS + "an_equal_epoch_from_another_client_instance_is_refused",
        AGAIN + "its_reply_and_the_same_the_cached_reply",
        EPOCHS + "a_newer_reset_drops_the_older_copy",
        EPOCHS + "a_newer_resume_has_the_copy",
        EPOCHS + "a_unary_command_of_a_newer_epoch_drops_the_older_copy",
        EPOCHS + "closing_under_a_newer_epoch_ends_the_older_copy",
    ],
    "step | on a stream | unary": [
        LEASES + "unary_calls_show_their_lease_with_reset",
        LEASES + "bind_tells_what_the_lease_is_for",
        LEASES + "a_lease_is_for_one_episode_after_another",
        LEASES + "a_lease_is_for_one_episode_after_another",
        LEASES + "return_gives_back_idle_slots_only",
    ],
    "lease | answer": [
        LEASES + "a_lease_that_is_signed_and_yet_no_right",
        LEASES + "a_slot_that_another_was_shown_first",
        LEASES + "more_episodes_than_slots",
        LEASES + "a_lease_may_be_shown_again",
        LEASES + "a_lease_that_was_given_back_is_no_right_any_more",
        ATTACH + "an_idle_slot_goes_back_by_itself_and_the_client_is_told",
    ],
    "the host is shown | answer": [
        CLOSED + "strangers_learn_nothing_from_a_host",
        CLOSED + "a_lease_of_one_tenant_is_refused_on_anothers_stream_and_release",
        CLOSED + "a_tenant_neither_sees_nor_touches_anothers_episode",
        CLOSED + "the_bytes_of_detach_are_of_no_use_to_another_tenant",
        LEASES + "bind_tells_what_the_lease_is_for",
    ],
    "the host finds | it does": [
        RESUME + "a_live_copy_one_step_ahead_goes_on",
        RESUME + "a_live_copy_elsewhere_is_rebuilt",
        RESUME + "every_replayed_outcome_is_returned_where_asked_for",
        RESUME + "another_outcome_than_before_is_data_loss_and_names_the_step",
        RESUME + "another_version_is_refused_and_never_data_loss",
        SAVED + "a_refused_checkpoint_leaves_the_live_copy_alone",
        RESUME + "a_journal_that_is_none",
        STORE + "forged_swapped_damaged_and_wandering_references",
        STORE + "forged_swapped_damaged_and_wandering_references",
        STORE + "a_store_that_is_away_costs_a_warning_and_no_episode",
        "integration/test_replays.py::test_outcomes_beyond_a_message_are_refused_and_the_worker_goes_on",
        RESUME + "without_a_journal_there_is_nothing_to_rebuild",
    ],
    "a draining host | does": [
        DRAIN + "it_says_so_takes_nothing_new_saves_goes_on_and_ends_as_soon_as_it_is_empty",
        DRAIN + "it_says_so_takes_nothing_new_saves_goes_on_and_ends_as_soon_as_it_is_empty",
        DRAIN + "it_says_so_takes_nothing_new_saves_goes_on_and_ends_as_soon_as_it_is_empty",
        DRAIN + "an_episode_moves_and_its_old_copy_is_closed_under_the_newer_epoch",
        FLEET + "a_drain_is_told_and_taken_back_and_a_host_that_leaves_is_gone",
        DRAIN + "what_is_left_at_the_deadline_is_preempted",
        FLEET + "a_drain_is_told_and_taken_back_and_a_host_that_leaves_is_gone",
    ],
    "rule | if broken": [
        FRAMES + "a_malformed_frame_ends_its_stream_and_nothing_else",
        FRAMES + "a_frame_has_at_most_4096_rows",
        FRAMES + "a_stream_begins_with_a_hello",
        FRAMES + "one_handle_twice_in_a_frame_is_taken_in_order",
        FRAMES + "a_bad_row_harms_no_other_row",
        FRAMES + "a_handle_names_one_episode",
    ],
}


def rows(head: str) -> list[str]:
    """The rows of the table with this head."""
    lines = PAGE.splitlines()
    at = lines.index(f"| {head} |")
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append(line)
    return found


@pytest.mark.parametrize("head", WALKED)
def test_every_row_has_its_test(head):
    table = rows(head)
    assert len(table) == len(WALKED[head]), "\n".join(f"{n}: {row[:100]}" for n, row in enumerate(table))
    for row, name in zip(table, WALKED[head], strict=True):
        path, _, function = name.partition("::")
        source = (ROOT / "tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {function}\(", source, re.MULTILINE), (row, name)


def test_every_table_of_the_page_is_here_or_is_walked_elsewhere():
    heads = re.findall(r"^\| (.+) \|\n\|(?:---\|)+$", PAGE, re.MULTILINE)
    elsewhere = {
        "name | made by | what it is",
        "what happened | the episode | goes on | and its step is",
        "command (`kinds`) | handle, index, payload | answered by",
        "reason | code | ends the episode",
    }
    assert set(heads) == set(WALKED) | elsewhere

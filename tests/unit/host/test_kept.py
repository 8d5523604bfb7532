"""A stored checkpoint stays until its client is known to hold a newer one."""

from envmesh_host.kept import NEVER, Stored, known_from, retold, without_outdated


def test_the_newest_one_that_the_client_holds_stays_and_all_behind_it():
    stored = [Stored("a", 2), Stored("b", 12), Stored("c", 22)]
    assert without_outdated(stored, 11) == ((), tuple(stored))
    assert without_outdated(stored, 12) == (("a",), tuple(stored[1:]))
    assert without_outdated(stored, 22) == (("a", "b"), tuple(stored[2:]))
    assert without_outdated([], 5) == ((), ())


def test_what_was_told_is_held_once_the_client_has_answered_to_a_later_outcome():
    assert known_from(10) == 12


def test_a_client_that_comes_back_holds_what_its_journal_names_and_nothing_newer_for_certain():
    stored = [Stored("a", 2), Stored("b", 12), Stored("c", 22)]
    again = retold(stored, ("a",), 11)
    assert again == (Stored("a", 0), Stored("b", NEVER), Stored("c", NEVER))
    assert without_outdated((*again, Stored("d", 31)), 30) == ((), (*again, Stored("d", 31)))
    assert without_outdated((*again, Stored("d", 31)), 31)[0] == ("a", "b", "c")

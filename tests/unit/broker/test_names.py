from envmesh_broker.names import resolve


def test_a_bare_name_means_the_newest_version_of_the_first_choice_that_has_one():
    assert resolve("e", {"e@1", "e@2", "other@9"}) == "e@2"
    assert resolve("e", {"other@9"}, {"e@1"}) == "e@1"
    assert resolve("e@1", {"e@2"}, {"e@1"}) == "e@1"
    assert resolve("e@3", {"e@2"}, {"e@1"}) is None
    assert resolve("f", {"e@2"}) is None

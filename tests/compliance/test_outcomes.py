"""Outcomes and what can be asked beside them: digests, infos, ends, several agents, environments, tasks, and errors of
the author's code, each of which ends its own episode and no other."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc, value_pb2
from tests.compliance.messages import Episode, Refused, content, digest
from tests.compliance.wire import Wire, called


async def refusal(command: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await command
    return refused.value


# ---- what an outcome says


@pytest.mark.parametrize("environment", ["tally", "tally-thread", "tally-process", "saved"])
async def test_the_digest_is_the_one_of_the_proto(wire: Wire, environment: str):
    episode = Episode(environment)
    outcomes = [await wire.reset(episode, seed=7)]
    for index, action in enumerate((5, -2, 1_000_000_000_000, 0), 1):
        outcomes.append(await wire.step(episode, index, action))
    for outcome in outcomes:
        assert outcome.digest == digest(outcome) != 0
    assert len({outcome.digest for outcome in outcomes}) == len(outcomes)


async def test_the_digest_tells_an_end_from_a_step_and_a_cut(wire: Wire):
    """The same observation and the same reward of 0 may have another meaning."""
    digests = set()
    for action in (0, -1):
        episode = Episode("tally")
        await wire.reset(episode, seed=7)
        digests.add((await wire.step(episode, 1, action)).digest)
    assert len(digests) == 2


async def test_info_travels_and_is_not_digested(wire: Wire):
    first, second = Episode("tally"), Episode("tally")
    seeded = await wire.reset(first, seed=0)
    unseeded = await wire.reset(second)
    assert content(seeded.info) == {"seeded": True}
    assert content(unseeded.info) == {"seeded": False}
    assert seeded.digest == unseeded.digest
    assert not (await wire.step(first, 1, 5)).HasField("info"), "an empty info is absent"


async def test_null_is_an_observation(wire: Wire):
    episode = Episode("mirror")
    outcome = await wire.reset(episode)
    assert content(outcome.observation) is None
    assert outcome.digest == digest(outcome)
    assert content((await wire.step(episode, 1, None)).observation) is None


async def test_options_and_tasks_say_how_it_begins(wire: Wire):
    for arguments, total in (
        ({"options": {"start": 5}}, 5),
        ({"seed": 2, "options": {"start": 5}}, 7),
        ({"task": "thousand"}, 1000),
        ({"task": "hundred", "split": "train"}, 100),
        ({"task": "hundred", "split": "test"}, 99),
    ):
        assert content((await wire.reset(Episode("tally"), **arguments)).observation) == total


@pytest.mark.parametrize(
    ("environment", "arguments", "verdict"),
    [
        ("nowhere", {}, "NOT_FOUND ENVIRONMENT_UNKNOWN"),
        ("tally@2", {}, "NOT_FOUND ENVIRONMENT_UNKNOWN"),
        ("tally@", {}, "NOT_FOUND ENVIRONMENT_UNKNOWN"),
        ("tally", {"task": "million"}, "NOT_FOUND TASK_UNKNOWN"),
        ("tally", {"task": "thousand", "split": "test"}, "NOT_FOUND TASK_UNKNOWN"),
        ("tally", {"options": {"begin": 5}}, "INVALID_ARGUMENT OPTION_UNKNOWN"),
        ("gate", {"options": {"start": 5}}, "INVALID_ARGUMENT OPTION_UNKNOWN"),
        ("gate", {"seed": 7}, "INVALID_ARGUMENT SEED_UNSUPPORTED"),
        ("gate", {"task": "hundred"}, "NOT_FOUND TASK_UNKNOWN"),
    ],
)
async def test_a_reset_that_cannot_be_is_refused_and_never_bent(
    wire: Wire, environment: str, arguments: dict[str, Any], verdict: str
):
    episode = Episode(environment)
    refused = await refusal(wire.reset(episode, **arguments))
    assert refused.verdict == verdict
    assert refused.failure is None
    if not verdict.endswith("ENVIRONMENT_UNKNOWN"):
        await wire.reset(episode)


@pytest.mark.parametrize("action", ["five", None, b"5", {"add": 5}])
async def test_an_action_outside_its_space_is_refused_and_harms_nothing(wire: Wire, action: Any):
    for environment in ("tally", "tally-thread", "tally-process"):
        episode = Episode(environment)
        await wire.reset(episode, seed=7)
        refused = await refusal(wire.step(episode, 1, action))
        assert refused.verdict == "INVALID_ARGUMENT ACTION_INVALID"
        assert refused.failure is None
        assert f"{environment}@1" in refused.message
        assert content((await wire.step(episode, 1, 5)).observation) == 12, "its index is unchanged"


async def test_an_action_of_more_items_than_a_value_may_have_is_refused_and_harms_nothing(wire: Wire):
    episode = Episode("mirror")
    await wire.reset(episode)
    many = value_pb2.Value(list=value_pb2.ValueList(values=[value_pb2.Value()] * 1_000_001))
    refused = await refusal(wire.step(episode, 1, many))
    assert refused.verdict == "INVALID_ARGUMENT ACTION_INVALID"
    assert "1,000,000" in refused.message
    assert content((await wire.step(episode, 1, "few")).observation) == "few"


# ---- several agents


def by_agent(outcome: pb.Outcome) -> dict[str, tuple[Any, float, bool]]:
    return {
        each.agent: (content(each.observation), each.reward, each.terminated)
        for each in outcome.agents.outcomes
    }


async def test_several_agents(wire: Wire):
    episode = Episode("pair")
    began = await wire.reset(episode)
    assert by_agent(began) == {"left": (0, 0.0, False), "right": (0, 0.0, False)}
    assert list(began.agents.acting) == ["left", "right"]
    outcome = await wire.step(episode, 1, {"left": 2, "right": 3})
    assert by_agent(outcome) == {"left": (3, 2.0, False), "right": (2, 3.0, False)}
    assert outcome.reward == 5.0, "the sum of theirs"
    assert not outcome.HasField("observation")
    assert outcome.digest == digest(outcome)
    last = await wire.step(episode, 2, {"left": 0, "right": 0})
    assert last.terminated
    assert not last.agents.acting
    assert [each.agent for each in last.agents.outcomes] == ["left", "right"]


@pytest.mark.parametrize(
    "action", [{"left": 2}, {"left": 2, "right": 3, "centre": 4}, 5, {"left": 2, "right": "x"}]
)
async def test_all_agents_that_are_due_act(wire: Wire, action: Any):
    episode = Episode("pair")
    await wire.reset(episode)
    assert (await refusal(wire.step(episode, 1, action))).verdict == "INVALID_ARGUMENT ACTION_INVALID"
    assert (await wire.step(episode, 1, {"left": 2, "right": 3})).reward == 5.0


# ---- the author's code fails


@pytest.mark.parametrize(
    ("environment", "action", "verdict", "words"),
    [
        ("faulty", "raise", "UNKNOWN ENVIRONMENT_RAISED", "LookupError: no such door"),
        (
            "faulty",
            "garbage",
            "UNKNOWN ENVIRONMENT_RETURNED",
            "(observation, reward, terminated, truncated, info)",
        ),
        ("faulty", "nan", "UNKNOWN REWARD_INVALID", "nan"),
        ("faulty", "inf", "UNKNOWN REWARD_INVALID", "inf"),
        ("faulty", "-inf", "UNKNOWN REWARD_INVALID", "-inf"),
        ("slow", "stay", "ABORTED LIMIT_EXCEEDED", "0.5 s"),
    ],
)
async def test_a_failure_is_never_a_reward(
    wire: Wire, environment: str, action: str, verdict: str, words: str
):
    episode, neighbour = Episode(environment), Episode(environment)
    await wire.reset(episode)
    await wire.reset(neighbour)
    refused = await refusal(wire.step(episode, 1, action))
    assert refused.verdict == verdict
    assert words in refused.message
    assert refused.failure is not None
    assert refused.cause == refused.reason
    assert not refused.failure.reward_valid
    assert not refused.failure.retryable
    again = await refusal(wire.step(episode, 1, action))
    assert again.verdict == verdict, "the same command again gets the same reply"
    for command in (wire.step(episode, 2, "go on"), wire.reset(episode)):
        assert (await refusal(command)).verdict in (verdict, "OUT_OF_RANGE STEP_INDEX")
    assert content((await wire.step(neighbour, 1, "go on")).observation) == "go on"
    await wire.close(episode)


async def test_the_traceback_is_the_authors_own(wire: Wire):
    episode = Episode("faulty")
    await wire.reset(episode)
    refused = await refusal(wire.step(episode, 1, "raise"))
    assert "LookupError: no such door" in refused.detail


async def test_a_reset_that_raises(wire: Wire):
    episode = Episode("faulty")
    refused = await refusal(wire.reset(episode, seed=666))
    assert refused.verdict == "UNKNOWN ENVIRONMENT_RAISED"
    assert refused.failure is not None
    assert (await refusal(wire.reset(episode, seed=666))).verdict == refused.verdict
    await wire.close(episode)
    await wire.reset(Episode("faulty"), seed=665)


# ---- what there is


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    """The unary calls, by themselves."""
    return environment_pb2_grpc.EnvironmentServiceStub(channel)


async def test_environments_are_listed_with_what_they_can(stub: Any):
    reply = await called(stub.ListEnvironments(pb.ListEnvironmentsRequest()))
    listed = {info.name: info for info in reply.environments}
    assert [info.name for info in reply.environments] == sorted(listed)
    tally, saved, gate, pair = (listed[name] for name in ("tally", "saved", "gate", "pair"))
    assert (tally.version, tally.seeded, tally.grades, tally.checkpoints, tally.has_tasks) == (
        "1",
        True,
        True,
        False,
        True,
    )
    assert list(tally.options) == ["start"]
    assert tally.recovery == pb.RECOVERY_CLASS_REPLAY
    assert (saved.recovery, saved.checkpoints) == (pb.RECOVERY_CLASS_STATE, True)
    assert (gate.recovery, gate.seeded, gate.grades) == (pb.RECOVERY_CLASS_NONE, False, False)
    assert list(pair.agents) == ["left", "right"]
    for info in reply.environments:
        assert info.build
        assert info.step_limit.ToMilliseconds() > 0
        assert info.reset_limit.ToMilliseconds() > 0
        assert info.reward_limit.ToMilliseconds() > 0


async def test_tasks_come_in_pages(stub: Any):
    found, token, pages = [], "", 0
    while pages == 0 or token:
        page = await called(
            stub.ListTasks(pb.ListTasksRequest(environment="tally", page_size=2, page_token=token))
        )
        found += [(task.split, task.id) for task in page.tasks]
        token, pages = page.next_page_token, pages + 1
    assert pages == 2
    assert found == [("train", "hundred"), ("train", "thousand"), ("test", "hundred")]
    only = await called(stub.ListTasks(pb.ListTasksRequest(environment="tally@1", split="test")))
    assert [content(task.metadata) for task in only.tasks] == [{"start": 99}]
    none = await called(stub.ListTasks(pb.ListTasksRequest(environment="gate")))
    assert not none.tasks


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (pb.ListTasksRequest(environment="nowhere"), "NOT_FOUND ENVIRONMENT_UNKNOWN"),
        (pb.ListTasksRequest(environment="tally", page_size=10_001), "INVALID_ARGUMENT ARGUMENT_INVALID"),
        (pb.ListTasksRequest(environment="tally", page_token="next"), "INVALID_ARGUMENT ARGUMENT_INVALID"),
        (pb.ListTasksRequest(environment="tally", page_token="²"), "INVALID_ARGUMENT ARGUMENT_INVALID"),
        (
            pb.ListTasksRequest(environment="tally", page_token="9" * 5000),
            "INVALID_ARGUMENT ARGUMENT_INVALID",
        ),
    ],
)
async def test_a_page_that_cannot_be(stub: Any, request_: pb.ListTasksRequest, verdict: str):
    assert (await refusal(called(stub.ListTasks(request_)))).verdict == verdict


async def test_the_reply_to_a_unary_reset_says_version_and_build(stub: Any):
    listed = await called(stub.ListEnvironments(pb.ListEnvironmentsRequest()))
    (tally,) = [info for info in listed.environments if info.name == "tally"]
    request = pb.ResetRequest(episode_id=Episode("tally").episode_id, epoch=1, environment="tally@1")
    reply = await called(stub.Reset(request))
    assert (reply.version, reply.build) == (tally.version, tally.build)
    await called(stub.Close(pb.CloseRequest(episode_id=request.episode_id, epoch=1)))

from envmesh_autoscaler.backends.events import event_of

DEPLOYMENT = {"metadata": {"name": "mesh-pool-walk", "namespace": "rl", "uid": "u"}}


def test_an_event_is_about_its_deployment_and_no_longer_than_may_be():
    event = event_of(DEPLOYMENT, "ScaledUp", "ScaleUp", "x" * 5000, 1_700_000_000.25, "a-0")
    assert event["regarding"] == {
        "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "rl", "name": "mesh-pool-walk", "uid": "u",
    }  # fmt: skip
    assert event["eventTime"] == "2023-11-14T22:13:20.250000Z"
    assert (event["reason"], event["action"], event["type"]) == ("ScaledUp", "ScaleUp", "Normal")
    assert len(event["note"]) <= 1024
    assert event["metadata"]["namespace"] == "rl"

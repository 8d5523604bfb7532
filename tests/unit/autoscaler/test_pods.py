from envmesh_autoscaler.backends import pods as kube

NOW = 1_700_000_100.0


def condition(kind, status, at="2023-11-14T22:14:00Z", reason=""):
    return {"type": kind, "status": status, "lastTransitionTime": at, "reason": reason}


def pod(uid="u", *, ready=True, labels=None, annotations=None, owner="ReplicaSet", conditions=None, **spec):
    given = [condition("Ready", "True" if ready else "False")] if conditions is None else conditions
    return {
        "metadata": {
            "uid": uid, "name": uid, "creationTimestamp": "2023-11-14T22:13:50Z",
            "labels": {"pool": "p", "pod-template-hash": "1", **(labels or {})}, "annotations": annotations or {},
            "ownerReferences": [{"kind": owner, "controller": True}],
        },
        "spec": spec,
        "status": {"phase": "Running", "conditions": given},
    }  # fmt: skip


def deployment(replicas, *, generation=1, observed=1):
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"pool": "p"}}},
        "status": {"observedGeneration": observed},
    }


def instance(made, node=None, seen_for=10.0):
    return kube.instance_of(made, node, NOW, seen_for)


def test_only_pods_of_its_replica_sets_are_a_deployments():
    assert kube.matches(deployment(1), pod())
    assert not kube.matches(deployment(1), pod(owner="Job"))
    assert not kube.matches(deployment(1), pod(labels={"pool": "q"}))


def test_how_long_it_took_and_how_long_it_has_been_ready():
    seen = instance(pod())
    assert (seen.start_seconds, seen.ready_for, seen.ready) == (10.0, 60.0, True)


def test_a_sealed_host_is_removable_once_its_marks_are_two_seconds_old():
    sealed = pod(labels={kube.SEALED: "true"})
    assert not instance(sealed, seen_for=1.9).removable
    assert instance(sealed, seen_for=2.0).removable
    assert not instance(pod()).removable


def test_an_unschedulable_pod_is_stranded():
    waits = instance(pod(conditions=[condition("PodScheduled", "False", reason="Unschedulable")]))
    assert (waits.unschedulable, waits.stranded, waits.removable, waits.ready) == (True, True, True, False)


def test_a_cordoned_node_goes_and_a_taint_unless_it_is_tolerated():
    taint = {"key": "spot", "value": "yes", "effect": "NoSchedule"}
    node = {"spec": {"taints": [taint]}}
    assert instance(pod(), {"spec": {"unschedulable": True}}).leaving
    assert instance(pod(), node).leaving
    assert not instance(pod(), {"spec": {}}).leaving
    assert not instance(pod(tolerations=[{"key": "spot", "operator": "Exists"}]), node).leaving
    assert not instance(pod(tolerations=[{"operator": "Exists"}]), node).leaving
    assert not instance(
        pod(tolerations=[{"key": "spot", "value": "yes", "effect": "NoSchedule"}]), node
    ).leaving
    assert instance(pod(tolerations=[{"key": "spot", "value": "no"}]), node).leaving
    soft = {"spec": {"taints": [{"key": "x", "effect": "PreferNoSchedule"}]}}
    assert not instance(pod(), soft).leaving


def test_replicas_are_lowered_only_when_it_is_sure_who_goes():
    two = [pod("a"), pod("b")]
    assert kube.unsettled(deployment(2), two) == ""
    assert "not seen" in kube.unsettled(deployment(2, generation=2), two)
    assert "2 pods are there" in kube.unsettled(deployment(3), two)
    assert "roll" in kube.unsettled(deployment(2), [pod("a"), pod("b", labels={"pod-template-hash": "2"})])
    unready = [pod("a"), pod("b", ready=False)]
    assert "not Ready" in kube.unsettled(deployment(2), unready)
    assert kube.unsettled(deployment(2), unready, ["b"]) == ""


def test_a_quota_that_refuses_pods_is_told_in_the_clusters_words():
    refused = deployment(2)
    words = 'pods "a" is forbidden: exceeded quota: small'
    failed = condition("ReplicaFailure", "True", reason="FailedCreate") | {"message": words}
    refused["status"]["conditions"] = [condition("Progressing", "True"), failed]
    assert kube.creation_refused(refused) == words
    refused["status"]["conditions"] = [condition("ReplicaFailure", "False")]
    assert kube.creation_refused(refused) == kube.creation_refused(deployment(2)) == ""


def test_who_sealed_first_goes_first_and_all_before_those_that_drain():
    def cost(patch):
        return kube.deletion_cost(patch)

    first, later, drains = kube.seal_patch(NOW), kube.seal_patch(NOW + 1.0), kube.mark_patch()
    assert cost(first) < cost(later) < cost(drains) < kube.deletion_cost(pod())
    assert cost(first) >= -(2**31)
    assert kube.deletion_cost(pod(annotations={kube.DELETION_COST: "cheap"})) == 0


def test_a_roll_pauses_while_more_drain_than_the_budget():
    def rolling(ending, *, paused=False, ours=False, rolled=True):
        made = deployment(4)
        made["spec"]["paused"] = paused
        made["metadata"]["annotations"] = {kube.ROLL: "paused"} if ours else {}
        pods = [pod("a"), pod("b", labels={"pod-template-hash": "2" if rolled else "1"})]
        for number in range(ending):
            pods.append(pod(f"e{number}"))
            pods[-1]["metadata"]["deletionTimestamp"] = "2023-11-14T22:14:00Z"
        return kube.roll_pace(made, pods, 2)

    assert rolling(2) is None
    assert rolling(3) is True
    assert rolling(3, rolled=False) is None  # a scale-in is paced by the drains themselves
    assert rolling(3, paused=True, ours=True) is None
    assert rolling(2, paused=True, ours=True) is False
    assert rolling(0, paused=True) is None  # somebody else's pause


def test_a_host_is_protected_until_it_has_sealed_itself_and_again_when_its_drain_is_taken_back():
    sealed = kube.seal_patch(NOW)["metadata"]
    assert sealed["labels"] == {kube.SEALED: "true"}, "the PodDisruptionBudget leaves it out"
    assert sealed["annotations"][kube.SAFE_TO_EVICT] == "true"
    assert sealed["annotations"][kube.DO_NOT_DISRUPT] is None
    marked = kube.mark_patch()["metadata"]["annotations"]
    assert not marked.keys() & {kube.SAFE_TO_EVICT, kube.DO_NOT_DISRUPT}, "it has episodes still"
    back = kube.unmark_patch()["metadata"]
    assert back["labels"] == {kube.SEALED: None}
    assert (back["annotations"][kube.SAFE_TO_EVICT], back["annotations"][kube.DO_NOT_DISRUPT]) == (
        "false",
        "true",
    )


def test_an_operator_pins_a_host_by_annotation():
    assert instance(pod(annotations={kube.PINNED: "true"})).pinned
    assert not instance(pod(annotations={kube.PINNED: "false"})).pinned

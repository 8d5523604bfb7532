"""The image as it is shipped: built from packages alone, and run by runc under the chart's own security context."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.assets import CLUSTER, ROOT, why_not
from tests.cluster.cluster import Cluster, passable, until
from tests.cluster.engine import why_no_engine
from tests.cluster.release import Release, small, uids

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(900),
]  # fmt: skip
USER = 65532


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which podman finds envmesh's image and an author's: localhost/envmesh, localhost/walks."""
    if reason := why_not(CLUSTER) or why_no_engine():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("images")
    configuration = directory / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/store"\nrunroot = "{directory}/run"\n'
    )
    environ = {
        "CONTAINERS_STORAGE_CONF": str(configuration), "ENGINE": "podman", "BUILDAH_ISOLATION": "chroot",
    }  # fmt: skip
    run(environ, ROOT, "make", "base-image", "wheels", "image")
    author = directory / "author"
    author.mkdir()
    shutil.copy(ROOT / "tests" / "cluster" / "worlds.py", author)
    envmesh = str(Path(sys.executable).with_name("envmesh"))
    run(environ, author, envmesh, "build", "walk@1=worlds:Walk", "--base", "localhost/envmesh")
    run(environ, author, "podman", "build", "--tag", "localhost/walks", ".")
    yield environ
    subprocess.run(
        ["umount", "--recursive", str(directory / "store" / "overlay")], check=False, capture_output=True
    )


@pytest.fixture(scope="module")
def release(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Broker, autoscaler and two hosts, all of them in real containers."""
    directory = passable(tmp_path_factory.mktemp("containers"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in images.items():
            patch.setenv(name, value)
        with Cluster(directory, nodes=1, engine=True) as cluster:
            made = Release(cluster, "shipped")
            made.install(values())
            yield made


def values(**more: Any) -> dict[str, Any]:
    """Two to three hosts of the author's image; everything else is of ours."""
    walk = {
        "image": {"repository": "localhost/walks", "tag": "latest"}, "extraEnv": [],
        "environments": [{"name": "walk", "version": "1", "target": "worlds:Walk"}],
        "scaling": {"mode": "direct", "min": 2, "max": 3, "lookBack": 4, "bufferMin": 0},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}, **more,
    }  # fmt: skip
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    return small(
        image={"repository": "localhost/envmesh", "tag": "latest"}, pools={"walk": walk},
        autoscaler={"enabled": True, "replicas": 1, "resources": resources},
    )  # fmt: skip


def run(environ: dict[str, str], directory: Path, *command: str) -> None:
    """Run something that must succeed, and hears nothing of a make around the tests."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARGUMENTS")}
    done = subprocess.run(
        command, cwd=directory, env=own | environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def contained() -> dict[str, Path]:
    """Process 1 of each envmesh container on this machine, as its directory in /proc, by what it runs."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = place.joinpath("cmdline").read_bytes().decode().split("\0")
            numbers = status(place)["NSpid"].split()  # one in each process namespace around it
        except OSError:
            continue
        if len(numbers) > 1 and numbers[-1] == "1":
            found[" ".join(words)] = place
    return found


def status(process: Path) -> dict[str, str]:
    """What the kernel says of a process."""
    lines = process.joinpath("status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def test_the_image_is_the_same_when_it_is_built_again(images: dict[str, str]) -> None:
    def identity() -> str:
        shown = subprocess.run(
            ["podman", "image", "inspect", "--format", "{{.Id}}", "localhost/envmesh"],
            env={**os.environ, **images}, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return shown.stdout

    before = identity()
    run(images, ROOT, "make", "image", "ARGUMENTS=--no-cache")
    assert identity() == before


def test_every_service_runs_confined(release: Release) -> None:
    release.await_hosts(2)
    found = {name: place for name, place in contained().items() if "envmesh" in name}
    for service in ("envmesh_broker", "envmesh_autoscaler", "serve"):
        place = next(place for name, place in found.items() if service in name)
        said = status(place)
        assert said["Uid"].split() == [str(USER)] * 4, service
        assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 0, service
        assert (said["NoNewPrivs"], said["Seccomp"]) == ("1", "2"), service
        mounts = [line.split() for line in place.joinpath("mountinfo").read_text().splitlines()]
        (root,) = [fields for fields in mounts if fields[4] == "/"]
        assert "ro" in root[5].split(","), f"{service}: {root}"
        assert not place.joinpath("root", str(ROOT).lstrip("/"), "pyproject.toml").exists(), (
            "this machine is not in it"
        )


def test_a_trainer_plays_and_a_roll_in_place_moves_its_episodes(release: Release) -> None:
    before = uids(release.hosts())
    with release.train("--episodes", "1000000", "--concurrency", "24", "--pace", "0.1") as trainer:
        until(lambda: trainer.line.get("whole", 0) >= 48, "episodes are played", 90)
        release.upgrade(values(podAnnotations={"rolled": "yes"}))
        until(
            lambda: not before & uids(release.hosts()) and len(release.hosts()) >= 2, "the roll is over", 150
        )
        after = trainer.line["whole"]
        until(lambda: trainer.line["whole"] > after + 24, "it plays on the new hosts", 60)
        sum_ = trainer.stop()
    assert (sum_["wrong"], sum_["failed"]) == (0, 0), sum_
    assert sum_["resumed"] > 0, sum_


def test_helm_test_passes(release: Release) -> None:
    said = release.cluster.helm("test", release.name, "--namespace", release.namespace, "--timeout", "90s")
    assert "Succeeded" in said, said

"""A mesh that is closed to strangers, as real processes: who gets in, and what one tenant sees of another's."""

import asyncio
import contextlib
import datetime as dt
import os
import secrets
import signal
import ssl
from typing import Any

import grpc
import pytest

import envmesh
from envmesh import values
from envmesh.errors import EnvmeshError, PermissionDenied, from_rpc_error
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc, fleet_pb2, fleet_pb2_grpc, placement_pb2, placement_pb2_grpc
from envmesh_service.certificates import Authority
from tests.integration.closed_parts import (
    FLEET_TOKEN,
    NAMES,
    ROOT,
    SERVED,
    TOKENS,
    authority_of,
    channel,
    make_keys,
    renew,
    until,
    write_tokens,
)
from tests.integration.command_line import started

pytestmark = pytest.mark.timeout(120)  # each starts a mesh of processes

NOW = dt.datetime.now(dt.UTC)


class Closed:
    """A closed mesh that runs."""

    def __init__(self, running, keys):
        self.running, self.keys = running, keys
        self.address, self.fleet = running.address, running.announced["fleet"]
        self.ca = (keys / "ca" / "tls.crt").read_bytes()

    def connect(self, tenant: str, number: int = 0, **more: Any) -> envmesh.Mesh:
        return envmesh.connect(
            self.address, token=TOKENS[tenant][number], ca=self.keys / "ca" / "tls.crt", **more
        )

    def pair(self, leaf: str) -> tuple[bytes, bytes]:
        return (self.keys / leaf / "tls.crt").read_bytes(), (self.keys / leaf / "tls.key").read_bytes()

    def host(self, address: str) -> tuple[grpc.aio.Channel, Any]:
        made = channel(address, self.ca, name="envmesh-host")
        return made, environment_pb2_grpc.EnvironmentServiceStub(made)


@contextlib.contextmanager
def closed_mesh(directory, *more, **variables):
    keys = make_keys(directory / "keys")
    arguments = ("--pool", "all:1", *SERVED, "--keys", str(keys), "--listen", "127.0.0.1:0", *more)
    with started("up", *arguments, cwd=ROOT, **variables) as running:
        yield Closed(running, keys)


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """For tests that leave its files alone."""
    with closed_mesh(tmp_path_factory.mktemp("closed")) as mesh:
        yield mesh


async def refused(call) -> EnvmeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# ---- who gets in


async def test_a_tenant_with_its_token_plays_as_on_an_open_mesh(closed):
    async with closed.connect("red") as mesh:
        assert [spec.name for spec in await mesh.environments()] == ["saved", "tally"]
        assert len(await mesh.tasks("tally")) == 3
        played = [t async for t in mesh.rollouts("tally", lambda total: 0, episodes=20, concurrency=5)]
    assert all(trajectory.failure is None for trajectory in played)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "does it want TLS"),
        ({"ca": "ca"}, "a bearer token is needed"),
        ({"ca": "ca", "token": "unknown"}, "the bearer token is not known here"),
        ({"ca": "other", "token": "red-token-1"}, "does not lead to a root that is trusted here"),
        ({"tls": True, "token": "red-token-1"}, "does not lead to a root that is trusted here"),
    ],
)
async def test_whoever_has_not_what_it_takes_is_told_what_is_missing(closed, tmp_path, given, words):
    (tmp_path / "other").write_bytes(Authority.make("other", 9, NOW).pem)
    paths = {"ca": closed.keys / "ca" / "tls.crt", "other": tmp_path / "other"}
    arguments = {**given, **({"ca": paths[given["ca"]]} if "ca" in given else {})}
    with pytest.raises(EnvmeshError, match=words) as caught:
        async with envmesh.connect(closed.address, connect_timeout=2.0, **arguments):
            raise AssertionError("it got in")
    assert "red-token" not in str(caught.value)


async def test_the_fleet_port_takes_certificates_of_the_mesh_and_each_for_its_own(closed):
    strangers = Authority.make("strangers", 9, NOW).leaf(NAMES["host-tls"], 9, NOW)
    trainer = authority_of(closed.keys).leaf(["some-trainer"], 9, NOW)
    for pair, code in (
        (None, grpc.StatusCode.UNAVAILABLE),
        (strangers, grpc.StatusCode.UNAVAILABLE),
        (trainer, grpc.StatusCode.PERMISSION_DENIED),
        (closed.pair("host-tls"), grpc.StatusCode.PERMISSION_DENIED),
        (closed.pair("autoscaler-tls"), None),
    ):
        async with channel(closed.fleet, closed.ca, pair) as link:
            call = fleet_pb2_grpc.FleetServiceStub(link).GetFleet(fleet_pb2.GetFleetRequest(), timeout=5)
            if code is None:
                assert len((await call).fleet.hosts) == 1
            else:
                assert (await refused(call)).code is code
    async with channel(closed.fleet, closed.ca, closed.pair("host-tls")) as link:
        drain = fleet_pb2_grpc.FleetServiceStub(link).Drain(fleet_pb2.DrainRequest(host_id="x"), timeout=5)
        assert "takes one for envmesh-autoscaler or envmesh-operator" in str(await refused(drain))


async def test_the_fleets_token_looks_and_a_trainers_does_not(closed):
    async with channel(closed.address, closed.ca) as link:
        stub = fleet_pb2_grpc.FleetServiceStub(link)
        look = lambda token: stub.GetFleet(  # noqa: E731
            fleet_pb2.GetFleetRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=5
        )
        assert len((await look(FLEET_TOKEN)).fleet.hosts) == 1
        assert (await refused(look("red-token-1"))).reason == "NOT_YOURS"
        assert (
            await refused(stub.GetFleet(fleet_pb2.GetFleetRequest(), timeout=5))
        ).reason == "CREDENTIAL_INVALID"


# ---- one tenant and another's


async def passes(closed, tenant):
    """What a host is shown by this tenant."""
    async with channel(closed.address, closed.ca) as link:
        stub = placement_pb2_grpc.PlacementServiceStub(link)
        metadata = (("authorization", f"Bearer {TOKENS[tenant][0]}"),)
        reply = await stub.ListPools(placement_pb2.ListPoolsRequest(), metadata=metadata)
    return tuple((entry.key, entry.value) for entry in reply.metadata)


async def lease(closed, tenant, environment="saved"):
    async with channel(closed.address, closed.ca) as link:
        stub = placement_pb2_grpc.PlacementServiceStub(link)
        request = placement_pb2.AcquireRequest(
            environment=environment, count=1, client_id=secrets.token_bytes(16)
        )
        metadata = (("authorization", f"Bearer {TOKENS[tenant][0]}"),)
        async for response in stub.Acquire(request, metadata=metadata):
            if response.grant.leases:
                return response.grant.leases[0]
    raise AssertionError("no lease")


async def test_a_tenant_neither_sees_nor_touches_anothers_episode(closed):
    granted = await lease(closed, "red")
    red, blue = await passes(closed, "red"), await passes(closed, "blue")
    link, host = closed.host(granted.address)
    assert granted.server_name == "envmesh-host"
    async with link:
        episode: dict[str, Any] = {"episode_id": secrets.token_bytes(16), "epoch": 1 << 32}
        request = pb.ResetRequest(
            environment="saved", lease=granted.token, seed=5, client_id=secrets.token_bytes(16), **episode
        )
        assert (await refused(host.Reset(request, metadata=blue, timeout=9))).reason == "LEASE_INVALID"
        assert (await refused(host.Reset(request, timeout=9))).reason == "CREDENTIAL_INVALID"
        await host.Reset(request, metadata=red, timeout=9)
        saved = (await host.Checkpoint(pb.CheckpointRequest(**episode), metadata=red, timeout=9)).checkpoint
        action = values.to_proto(1)
        for metadata, reason in ((blue, "EPISODE_UNKNOWN"), ((), "CREDENTIAL_INVALID")):
            step = pb.StepRequest(index=1, action=action, **episode)
            for call in (
                host.Step(step, metadata=metadata, timeout=9),
                host.Reward(pb.RewardRequest(**episode), metadata=metadata, timeout=9),
                host.Checkpoint(pb.CheckpointRequest(**episode), metadata=metadata, timeout=9),
            ):
                assert (await refused(call)).reason == reason
        await host.Close(pb.CloseRequest(**episode), metadata=blue, timeout=9)  # as if it were not there
        journal = pb.Journal(format_version=1, entries=[pb.JournalEntry(checkpoint=saved)])
        own = await lease(closed, "blue")
        resume = pb.ResumeRequest(
            episode_id=secrets.token_bytes(16), epoch=1 << 32, lease=own.token, journal=journal,
            client_id=secrets.token_bytes(16),
        )  # fmt: skip
        assert (await refused(host.Resume(resume, metadata=blue, timeout=9))).reason == "NOT_YOURS"
        resume.episode_id, resume.epoch = episode["episode_id"], 2 << 32
        assert (await refused(host.Resume(resume, metadata=blue, timeout=9))).reason == "NOT_YOURS"
        resume.ClearField("journal")
        assert (await refused(host.Resume(resume, metadata=blue, timeout=9))).reason == "EPISODE_UNKNOWN"
        reply = await host.Step(pb.StepRequest(index=1, action=action, **episode), metadata=red, timeout=9)
        assert reply.outcome.index == 1
        await host.Close(pb.CloseRequest(**episode), metadata=red, timeout=9)


async def test_the_bytes_of_detach_are_of_no_use_to_another_tenant(closed):
    async with closed.connect("red") as red, closed.connect("blue") as blue:
        episode = red.episode("tally", seed=3)
        await episode.__aenter__()
        await episode.step(4)
        detached = await episode.detach()
        with pytest.raises(EnvmeshError) as caught:
            await blue.attach(detached)
        assert caught.value.reason in ("NOT_YOURS", "LEASE_INVALID")
        async with closed.connect("red", number=1) as other_red:
            taken = await other_red.attach(detached)
            assert (await taken.step(0)).observation == 7
            await taken.close()


async def test_a_lease_of_one_tenant_is_refused_on_anothers_stream_and_release(closed):
    granted = await lease(closed, "red", "tally")
    async with channel(closed.address, closed.ca) as link:
        stub = placement_pb2_grpc.PlacementServiceStub(link)
        release = placement_pb2.ReleaseRequest(tokens=[granted.token])
        metadata = (("authorization", "Bearer blue-token-1"),)
        assert (await refused(stub.Release(release, metadata=metadata))).reason == "NOT_YOURS"
    async with closed.connect("blue") as blue, blue.episode("tally"):
        connection = await blue.connection(granted.address, granted.host_id)
        assert connection.lost is None
        from envmesh.slot import LeaseBinding

        binding = LeaseBinding(blue.pool("tally"), connection, granted.token)
        with pytest.raises(EnvmeshError) as caught:
            await binding.show()
        assert caught.value.reason == "LEASE_INVALID"


async def test_strangers_learn_nothing_from_a_host(closed):
    granted = await lease(closed, "red", "tally")
    link, host = closed.host(granted.address)
    forged = (("envmesh-pass", "AAAA"),)
    bearer = (("authorization", "Bearer red-token-1"),)  # hosts take no tokens: they see none
    async with link:
        for metadata in ((), forged, bearer):
            for call in (
                host.ListEnvironments(pb.ListEnvironmentsRequest(), metadata=metadata, timeout=5),
                host.ListTasks(pb.ListTasksRequest(environment="tally"), metadata=metadata, timeout=5),
            ):
                error = await refused(call)
                assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


# ---- what is renewed while it runs


async def certificate_at(address: str) -> str:
    host, _, port = address.rpartition(":")
    text = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=5)
    return text.strip()


class Playing:
    """A tenant that plays one episode after another, and counts."""

    def __init__(self, mesh):
        self.mesh, self.steps, self.error = mesh, 0, None

    async def run(self):
        try:
            async with self.mesh.episode("tally", seed=1) as episode:
                while True:
                    await episode.step(1)
                    self.steps += 1
                    await asyncio.sleep(0.005)
        except EnvmeshError as error:
            self.error = error

    async def goes_on(self, steps: int = 20):
        enough = self.steps + steps
        await until(lambda: self.steps >= enough or self.error is not None)
        assert self.error is None, self.error


@pytest.mark.slow
async def test_certificates_are_renewed_under_streams_that_run(tmp_path):
    with closed_mesh(tmp_path) as closed:
        async with closed.connect("red") as red, asyncio.TaskGroup() as tasks:
            playing = Playing(red)
            task = tasks.create_task(playing.run())
            await playing.goes_on()
            address = next(iter(red.open_connections())).address
            for leaf, where in (("broker-tls", closed.address), ("host-tls", address)):
                certificate = renew(closed.keys, leaf).decode().strip()

                async def renewed(where=where, certificate=certificate):
                    return await certificate_at(where) == certificate

                await until(renewed)
                await playing.goes_on()
                async with closed.connect("blue") as blue, blue.episode("tally") as episode:
                    await episode.step(0)
            bad = closed.keys / "host-tls" / "tls.crt"
            bad.write_bytes(b"nothing")
            await playing.goes_on(400)  # two looks at the files, and more
            assert await certificate_at(address) == certificate
            task.cancel()


async def test_a_token_that_is_revoked_ends_its_streams_and_no_others(tmp_path):
    with closed_mesh(tmp_path) as closed:
        async with (
            closed.connect("red") as first,
            closed.connect("red", number=1) as second,
            closed.connect("blue") as blue,
            asyncio.TaskGroup() as tasks,
        ):
            players = [Playing(mesh) for mesh in (first, second, blue)]
            running = [tasks.create_task(player.run()) for player in players]
            for player in players:
                await player.goes_on()
            write_tokens(closed.keys, {"red": ("red-token-2",), "blue": TOKENS["blue"]})
            async with asyncio.timeout(60):
                await asyncio.wait(running[:1])
            assert players[0].error is not None
            for player in players[1:]:
                await player.goes_on()
            write_tokens(closed.keys, {"blue": TOKENS["blue"]})
            async with asyncio.timeout(60):
                await asyncio.wait(running[1:2])
            await players[2].goes_on()
            for task in running:
                task.cancel()
        with pytest.raises(EnvmeshError, match="not known here"):
            async with closed.connect("red"):
                raise AssertionError("it got in")


async def test_a_token_that_is_revoked_stays_so_at_hosts_across_a_restart_of_the_broker(tmp_path):
    with closed_mesh(tmp_path) as closed:
        shown = await passes(closed, "red")
        granted = await lease(closed, "blue")
        link, host = closed.host(granted.address)

        async def is_revoked() -> bool:
            try:
                await host.ListEnvironments(pb.ListEnvironmentsRequest(), metadata=shown, timeout=5)
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error).reason == "CREDENTIAL_INVALID"
            return False

        async def knows_its_host() -> bool:
            metadata = (("authorization", f"Bearer {FLEET_TOKEN}"),)
            async with channel(closed.address, closed.ca) as to_broker:
                stub = fleet_pb2_grpc.FleetServiceStub(to_broker)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    reply = await stub.GetFleet(fleet_pb2.GetFleetRequest(), metadata=metadata, timeout=1)
                    return [each.state for each in reply.fleet.hosts] == [fleet_pb2.HOST_STATE_READY]
            return False

        async with link:
            assert not await is_revoked()
            write_tokens(closed.keys, {"red": ("red-token-2",), "blue": TOKENS["blue"]})
            await until(is_revoked)
            os.kill(closed.running.announced["processes"]["broker"], signal.SIGKILL)
            await until(knows_its_host, 60)
            assert await is_revoked()


@pytest.mark.slow
async def test_a_client_takes_up_a_token_that_is_renewed_in_its_file(tmp_path):
    with closed_mesh(tmp_path) as closed:
        (tmp_path / "token").write_text("red-token-1\n")
        ca = closed.keys / "ca" / "tls.crt"
        async with envmesh.connect(closed.address, token_file=tmp_path / "token", ca=ca) as mesh:
            async with mesh.episode("tally") as episode:
                await episode.step(1)
            (tmp_path / "token").write_text("red-token-2\n")
            await until(lambda: mesh.metadata == (("authorization", "Bearer red-token-2"),))
            write_tokens(closed.keys, {"red": ("red-token-2",), "blue": ()})

            async def revoked() -> bool:
                with contextlib.suppress(PermissionDenied):
                    async with envmesh.connect(closed.address, token="red-token-1", ca=ca):
                        return False
                return True

            await until(revoked)
            await mesh.pools()
            async with mesh.episode("saved") as episode:
                await episode.step(1)


@pytest.mark.slow
async def test_lease_keys_are_rotated_while_leases_are_taken(tmp_path):
    with closed_mesh(tmp_path, ENVMESH_BROKER_LIVENESS="2s") as closed:
        from envmesh_service.key_material import rotate
        from envmesh_service.key_stores import DirectoryStore

        seen: set[bytes] = set()
        rotated = False
        async with asyncio.timeout(50):
            while len(seen) < 2:
                granted = await lease(closed, "red", "tally")
                seen.add(placement_pb2.SignedLease.FromString(granted.token).key_id)
                link, host = closed.host(granted.address)
                async with link:
                    episode: dict[str, Any] = {"episode_id": secrets.token_bytes(16), "epoch": 1 << 32}
                    request = pb.ResetRequest(
                        environment="tally", lease=granted.token, client_id=secrets.token_bytes(16), **episode
                    )
                    metadata = tuple((entry.key, entry.value) for entry in granted.metadata)
                    await host.Reset(request, metadata=metadata, timeout=9)
                    await host.Close(pb.CloseRequest(**episode), metadata=metadata, timeout=9)
                if not rotated:
                    rotated = True
                    rotate(DirectoryStore(closed.keys), "lease-keys")


@pytest.mark.slow
async def test_nothing_secret_is_logged(tmp_path):
    with closed_mesh(tmp_path, "--verbose") as closed:
        async with closed.connect("red") as mesh, mesh.episode("tally") as episode:
            await episode.step(1)
        with pytest.raises(EnvmeshError):
            async with envmesh.connect(
                closed.address, token="mistyped-token", ca=closed.keys / "ca" / "tls.crt"
            ):
                raise AssertionError("it got in")
        closed.running.interrupt()
        closed.running.wait()
        said = closed.running.process.stderr.read() + closed.running.process.stdout.read()
        secret = [*TOKENS["red"], "mistyped-token"]
        secret += [
            path.read_text()
            for path in (closed.keys / "trainer-token/token", closed.keys / "seal-keys/seal-keys")
        ]
        assert "registered" in said
        for text in secret:
            assert text.strip() not in said
        assert "PRIVATE KEY" not in said

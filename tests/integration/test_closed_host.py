"""A host alone that is closed to strangers, its port for probes, and what a service says when its files are wrong."""

import asyncio
import datetime as dt
import http.client
import secrets
import ssl
import urllib.request

import grpc
import pytest

import envmesh
from envmesh.errors import EnvmeshError, EpisodeAborted, from_rpc_error
from envmesh.v1 import environment_pb2 as pb
from envmesh.v1 import environment_pb2_grpc
from envmesh_broker.broker import run
from envmesh_broker.settings import BrokerSettings
from envmesh_service.certificates import Authority
from envmesh_service.probes import ProbePort
from envmesh_service.rpc import Health
from envmesh_service.settings import SettingsError, load
from tests.integration.closed_parts import ROOT, channel, make_keys, until, write_tokens
from tests.integration.command_line import envmesh as run_envmesh
from tests.integration.command_line import started

TALLY = "tally=tests.environments.contract:Tally"
pytestmark = pytest.mark.timeout(120)  # each starts a mesh of processes

NOW = dt.datetime.now(dt.UTC)


def closed_host(keys, *more, **variables):
    return started(
        "serve", TALLY, "--keys", str(keys), "--listen", "127.0.0.1:0", *more, cwd=ROOT, **variables
    )


async def test_a_host_alone_checks_tokens_itself(tmp_path):
    keys = make_keys(tmp_path / "keys")
    ca = keys / "ca" / "tls.crt"
    with closed_host(keys) as host:
        async with (
            envmesh.connect(host.address, token="red-token-1", ca=ca) as red,
            envmesh.connect(host.address, token="blue-token-1", ca=ca) as blue,
        ):
            async with red.episode("tally", seed=1) as episode, blue.episode("tally", seed=1) as other:
                assert (await episode.step(2)).observation == (await other.step(2)).observation == 3
                with pytest.raises(EnvmeshError) as caught:
                    await blue.attach(await episode.detach())
                assert caught.value.reason == "NOT_YOURS"
            async with blue.episode("tally") as stays, red.episode("tally") as goes:
                await asyncio.gather(stays.step(1), goes.step(1))
                write_tokens(keys, {"blue": ("blue-token-1",)})

                async def fell() -> bool:
                    try:
                        await goes.step(1)
                    except EpisodeAborted:
                        return True
                    return False

                await until(fell, 60)
                await stays.step(1)


async def test_a_unary_caller_shows_its_token_to_a_host_alone(tmp_path):
    keys = make_keys(tmp_path / "keys")
    with closed_host(keys) as host:
        async with channel(host.address, (keys / "ca" / "tls.crt").read_bytes()) as link:
            stub = environment_pb2_grpc.EnvironmentServiceStub(link)
            request = pb.ResetRequest(
                environment="tally", episode_id=secrets.token_bytes(16), epoch=1 << 32,
                client_id=secrets.token_bytes(16),
            )  # fmt: skip
            step = pb.RewardRequest(episode_id=request.episode_id, epoch=1 << 32)
            red, blue = ((("authorization", f"Bearer {each}-token-1"),) for each in ("red", "blue"))
            await stub.Reset(request, metadata=red, timeout=9)
            for metadata, reason in (((), "CREDENTIAL_INVALID"), (blue, "EPISODE_UNKNOWN")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Reward(step, metadata=metadata, timeout=9)
                assert from_rpc_error(caught.value).reason == reason
            await stub.Reward(step, metadata=red, timeout=9)


# ---- probes and metrics


def get(url: str | urllib.request.Request, **more) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5, **more) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_the_port_for_probes_answers_health_and_nothing_else():
    health = Health()
    port = ProbePort(health)
    await port.start("127.0.0.1:0")
    try:
        at = f"http://127.0.0.1:{port.port}"
        await health.set(live=True, ready=True, accepting=False)
        assert await asyncio.to_thread(get, f"{at}/live") == (200, "yes\n")
        assert await asyncio.to_thread(get, f"{at}/ready?verbose") == (200, "yes\n")
        assert await asyncio.to_thread(get, f"{at}/accepting") == (503, "no\n")
        for path in ("/", "/metrics", "/live/..", "/states", "//live"):
            assert (await asyncio.to_thread(get, at + path))[0] == 404
        post = urllib.request.Request(f"{at}/live", data=b"x", method="POST")
        assert (await asyncio.to_thread(get, post))[0] == 405
        for said in (b"GET /live HTTP/1.1\r\n" + b"x: y\r\n" * 5000, b"\0" * 100 + b"\r\n\r\n", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
            writer.write(said)
            writer.write_eof()
            async with asyncio.timeout(10):
                assert b"200" not in await reader.read()
            writer.close()
        assert (await asyncio.to_thread(get, f"{at}/live"))[0] == 200
    finally:
        await port.stop()


async def test_a_probe_is_answered_whoever_is_connected_and_says_nothing():
    health = Health()
    port = ProbePort(health)
    await port.start("127.0.0.1:0")
    try:
        await health.set(live=True)
        silent = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(3 * 64)]
        assert await asyncio.to_thread(get, f"http://127.0.0.1:{port.port}/live") == (200, "yes\n")
        async with asyncio.timeout(5):  # long before they lose it by themselves
            assert await silent[0][0].read() == b"", "the oldest had to go"
        reader, writer = silent[-1]
        writer.write(b"GET /live HTTP/1.1\r\n\r\n")
        assert (await reader.read()).endswith(b"yes\n"), "the newest may speak yet"
        for _, writer in silent:
            writer.close()
    finally:
        await port.stop()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_closed_host_answers_probes_without_tls_and_metrics_with(tmp_path):
    keys, port = make_keys(tmp_path / "keys"), free_port()
    ca = keys / "ca" / "tls.crt"
    with closed_host(keys, "--health", f"127.0.0.1:{port}", "--drain-deadline", "20s") as host:
        assert get(f"http://127.0.0.1:{port}/accepting") == (200, "yes\n")
        metrics = str(host.announced["metrics"])
        assert metrics.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(ca))
        assert "envmesh_build_info" in get(metrics, context=trusting)[1]
        with pytest.raises((OSError, http.client.HTTPException)):
            get(metrics.replace("https:", "http:"))
        async with (
            envmesh.connect(host.address, token="red-token-1", ca=ca) as mesh,
            mesh.episode("tally") as episode,
        ):
            await episode.step(1)
            host.interrupt()
            where = f"http://127.0.0.1:{port}/accepting"
            await until(lambda: get(where)[0] == 503)
            assert get(f"http://127.0.0.1:{port}/live") == (200, "yes\n")
            await episode.close()
        assert host.wait() == 0


# ---- what is wrong is said before a port opens


@pytest.mark.slow
def test_a_service_that_would_be_open_refuses_and_says_what_would_close_it(tmp_path):
    keys = make_keys(tmp_path / "keys")
    tls = {
        "ENVMESH_HOST_TLS_CERTIFICATE": str(keys / "host-tls" / "tls.crt"),
        "ENVMESH_HOST_TLS_PRIVATE_KEY": str(keys / "host-tls" / "tls.key"),
    }
    for variables, words in (
        (
            {},
            (
                "plain text beyond this machine",
                "would take everybody",
                "ENVMESH_HOST_PLAINTEXT_BEYOND_LOOPBACK=true",
            ),
        ),
        (
            tls,
            ("would take everybody beyond this machine", "ENVMESH_HOST_CREDENTIALS_FILE", "`envmesh keys`"),
        ),
    ):
        done = run_envmesh("serve", TALLY, "--listen", "0.0.0.0:0", cwd=ROOT, **variables)
        assert done.returncode == 2
        for each in words:
            assert each in done.stderr
    told = {"ENVMESH_HOST_PLAINTEXT_BEYOND_LOOPBACK": "true", "ENVMESH_HOST_ANYONE_BEYOND_LOOPBACK": "true"}
    with started("serve", TALLY, "--listen", "0.0.0.0:0", cwd=ROOT, **told) as host:
        assert host.announced["address"].startswith("0.0.0.0:")


async def test_what_is_wrong_with_files_is_told_with_the_setting_the_file_and_the_remedy(tmp_path):
    keys = make_keys(tmp_path / "keys")
    authority = Authority.make("x", 99, NOW)
    expired = Authority.make("x", 99, NOW - dt.timedelta(days=90)).leaf(
        ["h"], 10, NOW - dt.timedelta(days=90)
    )
    for name, content in (("old.crt", expired[0]), ("old.key", expired[1]), ("nothing", b"nothing")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "other.key").write_bytes(authority.leaf(["h"], 9, NOW)[1])
    (tmp_path / "plain.json").write_text('{"tenants": [{"name": "red", "tokens": ["red-token-1"]}]}')
    good = keys / "broker-tls"
    for variables, words in (
        (
            {"TLS_CERTIFICATE": good / "tls.crt"},
            ("TLS_CERTIFICATE: it comes without ENVMESH_BROKER_TLS_PRIVATE_KEY",),
        ),
        (
            {"TLS_CERTIFICATE": tmp_path / "old.crt", "TLS_PRIVATE_KEY": tmp_path / "old.key"},
            ("old.crt expired on", "renew it"),
        ),
        (
            {"TLS_CERTIFICATE": good / "tls.crt", "TLS_PRIVATE_KEY": tmp_path / "other.key"},
            ("other.key is not the key of the certificate",),
        ),
        (
            {"TLS_CERTIFICATE": tmp_path / "nothing", "TLS_PRIVATE_KEY": good / "tls.key"},
            ("nothing holds no certificate in PEM form",),
        ),
        ({"TLS_AUTHORITY": tmp_path / "missing"}, ("TLS_AUTHORITY: there is no file",)),
        ({"CREDENTIALS_FILE": tmp_path / "nothing"}, ("CREDENTIALS_FILE", "nothing: it is no JSON")),
        ({"CREDENTIALS_FILE": tmp_path / "plain.json"}, ("tokens[0]: the SHA-256 of a token is right",)),
        ({"LEASE_KEYS_FILE": tmp_path / "nothing"}, ("LEASE_KEYS_FILE", "holds no private key in PEM form")),
        ({"FLEET_LISTEN": "127.0.0.1:0"}, ("FLEET_LISTEN: the fleet's port has certificates on both sides",)),
        ({"TOKEN_REVIEWS": "true"}, ("TOKEN_REVIEWS: nothing says which tenant",)),
        ({"METRICS_LISTEN": "0.0.0.0:9090"}, ("METRICS_LISTEN", "plain text beyond this machine")),
        ({"HEALTH_LISTEN": "8081x"}, ("HEALTH_LISTEN", "host:port is right")),
    ):
        given = {f"ENVMESH_BROKER_{name}": str(value) for name, value in variables.items()}
        with pytest.raises(SettingsError) as caught:
            await run(load(BrokerSettings, {"ENVMESH_BROKER_LISTEN": "127.0.0.1:0", **given}), signals=False)
        for each in words:
            assert each in str(caught.value), variables
        assert "red-token-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"token": "x", "token_file": "y"}, "not both"),
        ({"token": "two words"}, "is no token"),
        ({"token_file": "/nowhere/token"}, "/nowhere/token: No such file"),
        ({"ca": "/nowhere/ca"}, "/nowhere/ca: No such file"),
        ({"ca": __file__}, "holds no certificate in PEM form"),
        ({"certificate": __file__}, "a certificate goes with its private key"),
        ({"certificate": __file__, "private_key": __file__}, "are no certificate and its key"),
        ({"ca": __file__, "plaintext": True}, "exclude each other"),
        ({"ca": __file__, "credentials": grpc.ssl_channel_credentials()}, "not both"),
    ],
)
def test_credentials_that_cannot_be_are_told_when_they_are_given(arguments, words):
    with pytest.raises(ValueError, match=words):
        envmesh.connect("127.0.0.1:7070", **arguments)


def test_a_token_does_not_cross_a_network_in_plain_text_unless_told_so(monkeypatch):
    with pytest.raises(ValueError, match=r"the token would go to mesh\.example:7070 in plain text"):
        envmesh.connect("mesh.example:7070", token="x")
    monkeypatch.setenv("ENVMESH_TOKEN", "from-the-environment")
    with pytest.raises(ValueError, match="plain text") as caught:
        envmesh.connect("mesh.example:7070")
    assert "from-the-environment" not in str(caught.value)
    assert not envmesh.connect("mesh.example:7070", plaintext=True).access.secure
    assert envmesh.connect("mesh.example:443").access.secure
    assert envmesh.connect("mesh.example:7070", tls=True).access.secure
    mesh = envmesh.connect("127.0.0.1:7070")
    assert mesh.metadata == (("authorization", "Bearer from-the-environment"),)
    assert "from-the-environment" not in repr(mesh) + repr(mesh.access)

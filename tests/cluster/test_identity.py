"""Credentials on a real API server: ServiceAccount tokens reviewed by the broker, and keys kept in Secrets.

The broker runs inside the cluster's network and is asked through a Unix socket, which needs no network.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from envmesh.errors import EnvmeshError, from_rpc_error
from envmesh.v1 import placement_pb2, placement_pb2_grpc
from envmesh_host.registration import Registration
from tests.cluster.api import Api
from tests.cluster.assets import ROOT
from tests.cluster.control_plane import ControlPlane
from tests.integration.broker_parts import SimulatedHost
from tests.integration.closed_parts import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(180)]

FILE_TOKEN, FLEET_TOKEN = "a-token-of-the-file", "the-fleets-token"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def account(api: Api, namespace: str, name: str) -> None:
    api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})


def token_of(api: Api, namespace: str, name: str, audience: str = "envmesh") -> str:
    """A token as a projected volume has it."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    spec: dict[str, Any] = {"expirationSeconds": 600}
    if audience:
        spec["audiences"] = [audience]
    return str(api.create(path, {"spec": spec})["status"]["token"])


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """A control plane with what the chart would have made: namespaces, accounts, and the two roles."""
    api = control_plane.api
    for namespace in ("envmesh", "training"):
        api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    for namespace, name in (
        ("envmesh", "broker"),
        ("envmesh", "keys"),
        ("training", "ppo"),
        ("training", "other"),
    ):
        account(api, namespace, name)
    reviews = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    api.create(f"{RBAC}/clusterroles", {"metadata": {"name": "reviews"}, "rules": [reviews]})
    subject = {"kind": "ServiceAccount", "namespace": "envmesh"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reviews"}
    binding = {"metadata": {"name": "reviews"}, "roleRef": role, "subjects": [{**subject, "name": "broker"}]}
    api.create(f"{RBAC}/clusterrolebindings", binding)
    rules = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "get", "update"]}]
    api.create(f"{RBAC}/namespaces/envmesh/roles", {"metadata": {"name": "keys"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keys"}
    binding = {"metadata": {"name": "keys"}, "roleRef": role, "subjects": [{**subject, "name": "keys"}]}
    api.create(f"{RBAC}/namespaces/envmesh/rolebindings", binding)
    return control_plane


class Broker:
    """A broker inside the cluster's network."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address, self.channel = address, channel
        self.stub: Any = placement_pb2_grpc.PlacementServiceStub(channel)

    async def tenant(self, token: str) -> str:
        """Whose token it is, by the pass that it is given. Raises: EnvmeshError."""
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            reply = await self.stub.ListPools(placement_pb2.ListPoolsRequest(), metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        signed = placement_pb2.SignedLease.FromString(base64.urlsafe_b64decode(reply.metadata[0].value))
        return placement_pb2.PassClaims.FromString(signed.claims).tenant

    async def refusal(self, token: str) -> EnvmeshError:
        with pytest.raises(EnvmeshError) as caught:
            await self.tenant(token)
        assert token not in str(caught.value)
        return caught.value


def start(command: list[str], log: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=out, env=environ, cwd=ROOT, start_new_session=True
        )


@contextlib.asynccontextmanager
async def broker(plane: ControlPlane, directory: Path, **variables: str) -> AsyncIterator[Broker]:
    digest = lambda token: hashlib.sha256(token.encode()).hexdigest()  # noqa: E731
    tenants = [{"name": "lab", "tokens": [digest(FILE_TOKEN)], "service_accounts": ["training/ppo"]}]
    (directory / "credentials.json").write_text(
        json.dumps({"tenants": tenants, "fleet": [digest(FLEET_TOKEN)]})
    )
    kubeconfig = plane.write_kubeconfig(
        directory / "broker.kubeconfig", token_of(plane.api, "envmesh", "broker", "")
    )
    address = f"unix:{directory / 'broker.sock'}"
    environ = {
        **os.environ,
        "ENVMESH_BROKER_LISTEN": address,
        "ENVMESH_BROKER_CREDENTIALS_FILE": str(directory / "credentials.json"),
        "ENVMESH_BROKER_TOKEN_REVIEWS": "true",
        "ENVMESH_BROKER_KUBECONFIG": str(kubeconfig),
        "ENVMESH_BROKER_LOG_LEVEL": "debug",
        **variables,
    }
    command = plane.namespace.command([sys.executable, "-m", "envmesh_broker"])
    log = directory / "broker.log"
    process = start(command, log, environ)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            async with asyncio.timeout(30):
                await channel.channel_ready()
            yield Broker(address, channel)
    finally:
        process.terminate()
        process.wait(20)
    said = log.read_text()
    assert FILE_TOKEN not in said
    assert "eyJ" not in said, "a ServiceAccount's token was logged"


async def test_a_service_accounts_token_is_its_tenants_and_others_are_nobodys(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async with broker(plane, tmp_path) as asked:
        good = token_of(plane.api, "training", "ppo")
        assert await asked.tenant(good) == "lab"
        assert await asked.tenant(FILE_TOKEN) == "lab"
        refusal = await asked.refusal(token_of(plane.api, "training", "other"))
        assert refusal.reason == "CREDENTIAL_INVALID"
        assert "the ServiceAccount training/other belongs to no tenant here" in str(refusal)
        for token in (
            token_of(plane.api, "training", "ppo", ""),  # made for the API server, not for envmesh
            token_of(plane.api, "training", "ppo", "elsewhere"),
            good[:-8] + "AAAAAAAA",
            "not.a.token",
        ):
            refusal = await asked.refusal(token)
            assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
            assert "not known here" in str(refusal)


async def test_a_token_whose_account_is_gone_is_revoked_and_hosts_are_told(
    plane: ControlPlane, tmp_path: Path
) -> None:
    path = "/api/v1/namespaces/training/serviceaccounts"
    account(plane.api, "training", "short")
    async with broker(plane, tmp_path, ENVMESH_BROKER_TOKEN_REVIEW_CACHE="1s") as asked:
        document = json.loads((tmp_path / "credentials.json").read_text())
        document["tenants"][0]["service_accounts"] = ["training/*"]
        (tmp_path / "credentials.json").write_text(json.dumps(document))
        token = token_of(plane.api, "training", "short")

        async def known() -> bool:
            with contextlib.suppress(EnvmeshError):
                return await asked.tenant(token) == "lab"
            return False

        await until(known)
        host = SimulatedHost("h0")
        host.registration = Registration(
            lambda: asked.channel, host.identity, host.report, host,
            metadata=lambda: (("authorization", f"Bearer {FLEET_TOKEN}"),),
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(host.registration.run())
            async with asyncio.timeout(20):
                await host.up.wait()
            assert host.passes
            assert not host.revoked_credentials
            plane.api.delete(f"{path}/short")

            async def told() -> bool:
                return bool(host.revoked_credentials)

            await until(told)
            running.cancel()
        assert (await asked.refusal(token)).reason == "CREDENTIAL_INVALID"


async def test_while_the_api_server_is_away_what_is_known_counts_and_the_rest_may_try_again(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async with broker(plane, tmp_path) as asked:
        known, unknown = (token_of(plane.api, "training", "ppo") for _ in range(2))
        assert await asked.tenant(known) == "lab"
        plane.stop_api_server()
        try:
            assert await asked.tenant(known) == "lab"
            assert await asked.tenant(FILE_TOKEN) == "lab"
            refusal = await asked.refusal(unknown)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE")
        finally:
            plane.start_api_server()

        async def back() -> bool:
            with contextlib.suppress(EnvmeshError):
                return await asked.tenant(unknown) == "lab"
            return False

        await until(back)


def keys(plane: ControlPlane, kubeconfig: Path, *arguments: str, status: int = 0) -> str:
    command = [
        sys.executable, "-m", "envmesh_cli", "keys", "--secrets", "envmesh", "--prefix", "mesh", *arguments, "--json",
        "--kubeconfig", str(kubeconfig),
    ]  # fmt: skip
    done = subprocess.run(
        plane.namespace.command(command), capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stderr


def secret(plane: ControlPlane, item: str) -> dict[str, bytes]:
    found = plane.api.get(f"/api/v1/namespaces/envmesh/secrets/mesh-{item}")
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


def test_keys_are_made_once_in_secrets_by_an_account_that_may_do_no_more(
    plane: ControlPlane, tmp_path: Path
) -> None:
    kubeconfig = plane.write_kubeconfig(tmp_path / "keys", token_of(plane.api, "envmesh", "keys", ""))
    made = json.loads(keys(plane, kubeconfig, "--broker-name", "broker.envmesh.svc", "--label", "app=mesh"))
    assert set(made["items"].values()) == {"made"}
    found = {s["metadata"]["name"]: s for s in plane.api.items("/api/v1/namespaces/envmesh/secrets")}
    assert found["mesh-broker-tls"]["type"] == "kubernetes.io/tls"
    assert found["mesh-broker-tls"]["metadata"]["labels"]["app"] == "mesh"
    assert found["mesh-credentials"]["type"] == "Opaque"
    certificate = x509.load_pem_x509_certificate(secret(plane, "broker-tls")["tls.crt"])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["envmesh-broker", "broker.envmesh.svc", "localhost"]
    token = secret(plane, "trainer-token")["token"]
    document = json.loads(secret(plane, "credentials")["credentials.json"])
    assert document["tenants"][0]["tokens"] == [hashlib.sha256(token).hexdigest()]
    before = {name: s["data"] for name, s in found.items()}
    again = json.loads(keys(plane, kubeconfig))
    assert set(again["items"].values()) == {"kept"}
    first = secret(plane, "lease-keys")["lease-keys.pem"]
    keys(plane, kubeconfig, "--rotate", "lease-keys")
    rotated = secret(plane, "lease-keys")["lease-keys.pem"]
    assert rotated.endswith(first)
    assert rotated.count(b"BEGIN PRIVATE KEY") == 2
    after = {s["metadata"]["name"]: s["data"] for s in plane.api.items("/api/v1/namespaces/envmesh/secrets")}
    assert {name for name in after if after[name] != before[name]} == {"mesh-lease-keys"}


def test_keys_says_what_it_may_not_do(plane: ControlPlane, tmp_path: Path) -> None:
    kubeconfig = plane.write_kubeconfig(tmp_path / "broker", token_of(plane.api, "envmesh", "broker", ""))
    said = keys(plane, kubeconfig, status=1)
    assert "the API server did not show the Secret envmesh/mesh-ca" in said
    assert "forbidden" in said
    assert "(HTTP 403)" in said

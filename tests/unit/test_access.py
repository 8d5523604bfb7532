"""A client's credentials from files that are renewed while it lives."""

import datetime as dt
import os

import pytest

from envmesh import access
from envmesh.access import Access, proxy_between
from envmesh.links import Links, link_trouble
from envmesh.v1.placement_pb2 import MetadataEntry
from envmesh_service.certificates import Authority

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(autouse=True)
def looked_at_each_time(monkeypatch):
    monkeypatch.setattr(access, "LOOK_SECONDS", 0.0)


def put(path, content: bytes) -> None:
    new = path.with_name("new")
    new.write_bytes(content)
    os.replace(new, path)  # noqa: PTH105


def test_a_token_file_is_read_again_and_half_a_file_is_not_taken_up(tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    used = Access("127.0.0.1:1", token_file=token, environ={})
    assert (used.metadata, used.renewable) == ((("authorization", "Bearer first"),), True)
    for content, expected in (
        (b"second", "second"),
        (b"", "second"),
        (b"a b", "second"),
        (b"third\n", "third"),
    ):
        put(token, content)
        assert used.metadata == (("authorization", f"Bearer {expected}"),)
    token.unlink()
    assert used.metadata == (("authorization", "Bearer third"),)


async def test_renewed_certificates_are_for_new_channels_and_old_ones_stay_open(tmp_path):
    authority = Authority.make("mesh", 9, NOW)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    certificate, key = authority.leaf(["trainer"], 9, NOW)
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    used = Access(
        "mesh:7070", ca=tmp_path / "ca.crt", certificate=tmp_path / "tls.crt", private_key=tmp_path / "tls.key",
        environ={},
    )  # fmt: skip
    links = Links(used, ())
    first = links.channel("host:1")
    assert links.channel("host:1") is first
    certificate, key = authority.leaf(["trainer"], 9, NOW)
    put(tmp_path / "tls.crt", certificate)
    assert links.channel("host:1") is first  # the new certificate has not its key yet
    put(tmp_path / "tls.key", key)
    second = links.channel("host:1")
    assert second is not first
    assert links.channel("host:1") is second
    await links.close()


async def test_hosts_are_shown_the_newest_pass_and_what_gateways_need_but_no_token():
    links = Links(Access("127.0.0.1:1", token="secret", environ={}), ())
    assert links.passes() == ()
    for number in (1, 2):
        entries = [
            MetadataEntry(key="envmesh-pass", value=f"pass-{number}"),
            MetadataEntry(key="route", value="a"),
        ]
        links.learn(f"host:{number}", "envmesh-host", entries)
    assert links.passes() == (("envmesh-pass", "pass-2"),)
    assert links.without_pass([("envmesh-pass", "pass-1"), ("route", "a")]) == (("route", "a"),)
    assert (links.server_name("host:1"), links.server_name("elsewhere:1")) == ("envmesh-host", "")
    await links.close()


def test_the_environment_says_what_is_not_given(tmp_path):
    (tmp_path / "ca.crt").write_bytes(Authority.make("mesh", 9, NOW).pem)
    environ = {"ENVMESH_CA": str(tmp_path / "ca.crt"), "ENVMESH_TOKEN": "secret"}
    used = Access("mesh:7070", environ=environ)
    assert used.secure
    assert used.metadata == (("authorization", "Bearer secret"),)
    assert not Access("127.0.0.1:1", plaintext=True, environ=environ).secure
    assert Access("mesh:7070", token="other", environ=environ).metadata == (
        ("authorization", "Bearer other"),
    )


PROXY = "http://somebody:secret@proxy:3128"


@pytest.mark.parametrize(
    ("target", "environ", "between"),
    [
        ("gateway.example:443", {}, ""),
        ("gateway.example:443", {"http_proxy": PROXY}, "$http_proxy=proxy:3128"),
        ("gateway.example:443", {"http_proxy": "other:1", "https_proxy": PROXY}, "$https_proxy=proxy:3128"),
        ("gateway.example:443", {"grpc_proxy": "proxy:1", "https_proxy": PROXY}, "$grpc_proxy=proxy:1"),
        ("gateway.example:443", {"http_proxy": PROXY, "no_proxy": "localhost,.example"}, ""),
        ("gateway.example:443", {"http_proxy": PROXY, "no_proxy": "example.org"}, "$http_proxy=proxy:3128"),
        ("gateway.example:443", {"http_proxy": PROXY, "no_grpc_proxy": "gateway.example"}, ""),
        ("127.0.0.1:7070", {"http_proxy": PROXY}, ""),
        ("[::1]:7070", {"http_proxy": PROXY}, ""),
        ("localhost:7070", {"http_proxy": PROXY}, ""),
        ("unix:/run/envmesh", {"http_proxy": PROXY}, ""),
    ],
)
def test_the_proxy_between(target, environ, between):
    assert proxy_between(target, environ) == between


@pytest.mark.parametrize(
    ("message", "variables", "word"),
    [
        ("connection refused", {}, "is the mesh up?"),
        ("connection refused", {"http_proxy": PROXY}, "a proxy, $http_proxy=proxy:3128; $no_proxy says"),
        ("errors resolving gateway.example:443", {}, "no such name"),
        ("SSL: CERTIFICATE_VERIFY_FAILED", {"http_proxy": PROXY}, "its certificate"),
    ],
)
def test_what_is_said_of_a_connection_that_failed(monkeypatch, message, variables, word):
    for name in (*access.PROXY_VARIABLES, "no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = link_trouble(message, "gateway.example:443", secure=True)
    assert word in said
    assert "secret" not in said

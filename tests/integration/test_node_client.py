"""The example in another language: written from the .proto alone, it plays what Python plays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import envmesh
from tests.integration.command_line import Running, started

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "clients" / "node-example"
TARGETS = ("cartpole=gymnasium:CartPole-v1", "countdown=tests.environments.countdown:Countdown")

pytestmark = [
    pytest.mark.node,
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("node"),
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None,
        reason="the Node client was not tested: node or npm is not installed",
    ),
]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, as `npm ci` makes it from the lock file."""
    directory = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"],
        check=False,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert installed.returncode == 0, installed.stderr
    return directory


@pytest.fixture(scope="module", params=["serve", "up"])
def mesh(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A host alone, and a broker with two pools."""
    with started(request.param, *TARGETS, "--listen", "127.0.0.1:0", cwd=ROOT) as running:
        yield running


def node(example: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", *arguments],
        check=False,
        cwd=example,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ENVMESH_PROTO": str(ROOT / "proto")},
    )


def node_json(example: Path, *arguments: str) -> Any:
    done = node(example, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def balance(observation: Any) -> int:
    """The policy of the example."""
    return int(observation[2] + observation[3] > 0)


async def played_by_python(address: str, seed: int) -> dict[str, Any]:
    async with envmesh.connect(address) as client, client.episode("cartpole", seed=seed) as episode:
        sum_ = 0.0
        while not episode.done:
            sum_ += (await episode.step(balance(episode.observation))).reward
        return {"steps": episode.index, "return": sum_, "digest": str(episode.outcome.digest)}


async def test_an_episode_with_unary_calls(example: Path, mesh: Running):
    played = node_json(example, "unary.js", mesh.address, "cartpole", "7")
    assert played == {"environment": "cartpole@1", **await played_by_python(mesh.address, 7)}


async def test_episodes_over_the_stream(example: Path, mesh: Running):
    """More of them than slots were asked for, so that slots are used again."""
    played = node_json(example, "stream.js", mesh.address, "cartpole", "100")
    assert played["environment"] == "cartpole@1"
    assert [episode["seed"] for episode in played["episodes"]] == list(range(100))
    for seed in (0, 1, 99):
        assert played["episodes"][seed] == {"seed": seed, **await played_by_python(mesh.address, seed)}


def test_text_and_no_declared_space(example: Path, mesh: Running):
    assert node_json(example, "unary.js", mesh.address, "countdown")["return"] == 3
    episodes = node_json(example, "stream.js", mesh.address, "countdown", "5")["episodes"]
    assert [(episode["steps"], episode["return"]) for episode in episodes] == [(3, 3)] * 5


@pytest.mark.parametrize("program", ["unary.js", "stream.js"])
def test_an_error_has_code_reason_and_message(example: Path, mesh: Running, program: str):
    done = node(example, program, mesh.address, "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("NOT_FOUND ENVIRONMENT_UNKNOWN: ")
    assert "nowhere" in done.stderr


VALUES = """
import { connect, decode, encode, fromValue, hangUp, toValue } from "./protocol.js";
const sent = (value) => decode("envmesh.v1.Value", encode("envmesh.v1.Value", value));
const shown = (value) => (typeof value === "bigint" ? `${value}n` : ArrayBuffer.isView(value) ? [...value] : value);
const there = (value, space) => shown(fromValue(sent(value), space));
const told = [3, -7, 0.5, true, false, "3", null, 2n ** 60n].map((content) => shown(fromValue(sent(toValue(content)))));
const refused = [undefined, {}, [1], 2n ** 70n].map((content) => {
  try { return toValue(content); } catch (error) { return error.constructor.name; }
});
const bytes = Buffer.from([1, 0, 2, 0]);
const packed = [
  there({ packed: bytes }, { kind: "multiDiscrete", multiDiscrete: { n: { dtype: "DTYPE_INT16" } } }),
  there({ packed: bytes }, { kind: "multiBinary", multiBinary: {} }),
  there({ packed: bytes }, { kind: "box", box: { dtype: "DTYPE_UINT16" } }),
];
const listed = there({ list: { values: [{ integer: 1 }, { real: 2 }] } });
console.log(JSON.stringify({ told, refused, packed, listed }));
"""


def test_values_keep_their_kinds_and_what_has_none_is_refused(example: Path):
    """A whole number is a number, and no action becomes another one on its way."""
    assert node_json(example, "--input-type=module", "--eval", VALUES) == {
        "told": [3, -7, 0.5, True, False, "3", None, f"{2**60}n"],
        "refused": ["TypeError"] * 4,
        "packed": [[1, 2], [1, 0, 2, 0], [1, 2]],
        "listed": [1, 2],
    }


METADATA = """
import grpc from "@grpc/grpc-js";
import { connect, hangUp } from "./protocol.js";
const server = new grpc.Server();
const seen = [];
const { service } = connect({ address: "127.0.0.1:1", metadata: [] }).constructor;
server.addService(service, {
  ListEnvironments: (call, reply) => { seen.push(call.metadata.get("envmesh-pass")); reply(null, {}); },
  Stream: (call) => { seen.push(call.metadata.get("envmesh-pass")); call.end(); },
});
const credentials = grpc.ServerCredentials.createInsecure();
const port = await new Promise((resolve) => server.bindAsync("127.0.0.1:0", credentials, (_, port) => resolve(port)));
const host = connect({ address: `127.0.0.1:${port}`, metadata: [{ key: "envmesh-pass", value: "a pass" }] });
await host.ListEnvironments({});
await new Promise((resolve) => host.Stream().on("data", () => {}).on("end", resolve));
console.log(JSON.stringify(seen));
hangUp(host);
server.forceShutdown();
"""


def test_every_call_to_a_host_sends_what_its_lease_says(example: Path):
    assert node_json(example, "--input-type=module", "--eval", METADATA) == [["a pass"]] * 2


def test_the_lock_file_names_no_place_to_download_from():
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-")

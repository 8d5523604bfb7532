"""The trainer of docs/traces.md is run as it stands, and its settings are those that there are."""

import re
from pathlib import Path

import envmesh.traces
from envmesh_broker.settings import BrokerSettings
from envmesh_cli.local_mesh import LocalMesh
from envmesh_host.settings import HostSettings
from tests.monitoring.collector import collector

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "traces.md").read_text()


async def test_the_example_traces_a_share_of_the_episodes():
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    async with collector() as kept, LocalMesh(["echo=envmesh_environments.echo:Echo"]) as local:
        example = example.replace("localhost:7070", local.address).replace("http://localhost:4317", kept.url)
        example = example.replace("share=0.01", "share=1.0")
        body = "".join(f"    {line}\n" for line in example.splitlines())
        body += (
            "        async with mesh.episode('echo') as episode:\n            await episode.step(bytes(50))\n"
        )
        body += "        return episode.episode_id.hex()\n"
        names: dict[str, object] = {}
        exec(f"async def main():\n{body}", names)
        episode = await names["main"]()  # type: ignore[operator]
        spans = await kept.until(lambda spans: any(span.name == "episode" for span in spans))
    assert {span.trace_id for span in spans if span.name == "episode"} == {episode}


def test_every_setting_is_there():
    told = set(re.findall(r"^\| `ENVMESH_(BROKER|HOST)_(\w+)`", PAGE, re.MULTILINE))
    assert told == {("BROKER", "TRACES"), ("HOST", "TRACES"), ("HOST", "TRACED_EPISODES")}
    assert "traces" in BrokerSettings.__dataclass_fields__
    assert {"traces", "traced_episodes"} <= set(HostSettings.__dataclass_fields__)
    assert int(re.search(r"so many at once \((\d+)\)", PAGE).group(1)) == HostSettings().traced_episodes


def test_the_names_of_spans_are_the_codes():
    told = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", PAGE, re.MULTILINE)[3:])))
    assert {"episode", "slot", "place", "copy", "rebuild", "resume"} <= told
    assert envmesh.traces.MOST_COMMANDS == 1_000
    assert "first 1,000 commands" in PAGE

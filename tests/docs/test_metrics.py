"""The trainer's exporter of docs/metrics.md is run as it stands."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.integration.command_line import environ, started
from tools.prometheus_beside import free_port

ROOT = Path(__file__).resolve().parents[2]
(EXPORTER,) = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "metrics.md").read_text(), re.DOTALL | re.MULTILINE
)

PROGRAM = """
import asyncio
import urllib.request
async def main():
{example}
        async for trajectory in mesh.rollouts("cartpole", lambda observation: 0, episodes=40, concurrency=20):
            assert trajectory.failure is None
        url = "http://127.0.0.1:{port}/metrics"
        print(await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode()))
asyncio.run(main())
"""


def test_a_trainer_exports_what_it_sees():
    with started("serve", "cartpole=gymnasium:CartPole-v1", "--listen", "127.0.0.1:0", cwd=ROOT) as host:
        port = free_port()
        example = EXPORTER.replace("localhost:7070", host.address).replace("9100", str(port))
        program = PROGRAM.format(example=textwrap.indent(example, "    "), port=port)
        ran = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=50,
            env=environ(),
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    counted = re.findall(
        r"^envmesh_client_episodes_total\{.*outcome=\"(\w+)\".*\} ([\d.]+)$", ran.stdout, re.MULTILINE
    )
    assert sum(float(count) for _, count in counted) == 40
    assert 'envmesh_client_episode_reward_count{environment="cartpole",version="1"} 40.0' in ran.stdout
    assert re.search(r"^envmesh_client_step_duration_seconds_count [1-9]", ran.stdout, re.MULTILINE)

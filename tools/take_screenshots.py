"""Takes the pictures of the pages that the documentation shows, in light and dark: `make screenshots`."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from envmesh_cli.main import main as envmesh  # noqa: E402
from tests.browser import chromium, recorded  # noqa: E402
from tests.integration import command_line  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT, LIVE_HEIGHT = 1280, 1310, 1240
COLOURS = 192
CURVE_SECONDS = 45.0
METRICS = """\
# TYPE envmesh_step_duration_seconds histogram
envmesh_step_duration_seconds_bucket{le="0.025"} 1900
envmesh_step_duration_seconds_bucket{le="0.05"} 5400
envmesh_step_duration_seconds_bucket{le="0.1"} 10100
envmesh_step_duration_seconds_bucket{le="0.5"} 13650
envmesh_step_duration_seconds_bucket{le="+Inf"} 13768
# TYPE envmesh_queue_wait_seconds histogram
envmesh_queue_wait_seconds_bucket{le="0.001"} 700
envmesh_queue_wait_seconds_bucket{le="0.01"} 890
envmesh_queue_wait_seconds_bucket{le="0.05"} 900
envmesh_queue_wait_seconds_bucket{le="+Inf"} 900
"""


def main() -> None:
    """Write them all, or those whose names begin as the first argument does."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as name, chromium.browser(Path(name) / "profile") as driver:
        if "report".startswith(wanted):
            _report(driver, Path(name))
        if "live".startswith(wanted):
            _live(driver)


def _report(driver: Any, directory: Path) -> None:
    recording, metrics, page = (directory / each for each in ("repair.jsonl", "metrics.txt", "page.html"))
    recorded.record(recording, polite=True)
    metrics.write_text(METRICS)
    envmesh(
        [
            "report",
            str(recording),
            "--metrics",
            str(metrics),
            "--output",
            str(page),
            "--title",
            "repair, run 7",
        ]
    )
    for scheme in ("light", "dark"):
        chromium.in_scheme(driver, scheme)
        driver.get(page.as_uri())
        _photograph(driver, f"report-{scheme}", HEIGHT)


def _live(driver: Any) -> None:
    """A mesh at work, for as long as the curves need to say something."""
    targets = ["cartpole=gymnasium:CartPole-v1", "repair=tests.environments.repair:Repair?raises=0.001"]
    plays = [("cartpole", "90"), ("repair", "36", "--policy", "tests.environments.repair:act_politely")]
    with command_line.started(
        "up", *targets, "--hosts", "3", "--listen", "127.0.0.1:0", cwd=ROOT, ENVMESH_HOST_SLOTS="48"
    ) as mesh:
        trainers = [
            subprocess.Popen(
                [command_line.ENVMESH, "run", name, "--concurrency", at_once, *more, "--seconds", "240",
                 "--mesh", mesh.address],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
            )
            for name, at_once, *more in plays
        ]  # fmt: skip
        try:
            driver.get(mesh.announced["page"])
            time.sleep(CURVE_SECONDS)
            driver.execute_script(
                "document.getElementById('which').value = 'repair@1'; document.getElementById('values').click();"
                "document.getElementById('go').click()"
            )
            time.sleep(4)
            for scheme in ("light", "dark"):
                chromium.in_scheme(driver, scheme)
                time.sleep(1.2)
                _photograph(driver, f"live-{scheme}", LIVE_HEIGHT)
        finally:
            for trainer in trainers:
                trainer.kill()


def _photograph(driver: Any, name: str, height: int) -> None:
    file = IMAGES / f"{name}.png"
    chromium.photograph(driver, file, width=WIDTH, height=height)
    picture = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

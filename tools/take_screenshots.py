"""Takes the pictures of the pages that the documentation shows, in light and dark: `make screenshots`."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from envmesh_cli.main import main as envmesh  # noqa: E402
from tests.browser import chromium, recorded  # noqa: E402

IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1280, 1310
COLOURS = 192
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
    """Write them all."""
    with tempfile.TemporaryDirectory() as name, chromium.browser(Path(name) / "profile") as driver:
        directory = Path(name)
        _report(driver, directory)


def _report(driver: object, directory: Path) -> None:
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
    _take(driver, page.as_uri(), "report", HEIGHT)


def _take(driver: object, address: str, name: str, height: int) -> None:
    for scheme in ("light", "dark"):
        file = IMAGES / f"{name}-{scheme}.png"
        chromium.in_scheme(driver, scheme)
        driver.get(address)  # type: ignore[attr-defined]
        chromium.photograph(driver, file, width=WIDTH, height=height)
        picture = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
        picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            file, optimize=True
        )
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

"""What `top` draws on terminals of some widths: numbers whole, names apart, and a dash for what is not told."""

import io

import pytest
from rich.console import Console

from envmesh.v1 import placement_pb2
from envmesh_cli.fleet_view import HostRow, PoolRow, View, view_of_pools
from envmesh_cli.tables import fitting, shortened
from envmesh_cli.top import drawn

NAMES = ("envmesh-cartpole-7c9d8b6f5d-x2x4z", "envmesh-cartpole-7c9d8b6f5d-k8w2q")


def host(name: str) -> HostRow:
    return HostRow(
        host=name, pool="cartpole", state="ready", slots=4096, in_use=1024, leased=1030, live=1024,
        steps_per_second=123456.0, episodes_per_second=4321.0, failed=17, lag_seconds=0.00153,
        memory_bytes=191 * 2**20, cores=3.52,
    )  # fmt: skip


VIEW = View(
    pools=(
        PoolRow(
            pool="cartpole", environments=("cartpole@1", "acrobot@1"), hosts={"ready": 120, "draining": 3},
            slots=8192, in_use=2048, leased=2060, queued=31, steps_per_second=246912.0,
            episodes_per_second=8642.0, failed=34,
        ),
    ),
    hosts=tuple(host(name) for name in NAMES),
    tenants={},
    complete=True,
    uptime_seconds=60.0,
)  # fmt: skip


def lines(view: View, width: int) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width, highlight=False, markup=False).print(drawn(view, "127.0.0.1:7070"))
    return written.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_narrow_terminal_cuts_no_number_and_keeps_names_apart(width: int):
    drawing = lines(VIEW, width)
    assert max(len(line) for line in drawing) <= width
    first, second = drawing[-2:]
    assert first.split()[0] != second.split()[0]
    assert first.split()[0].endswith("z")
    assert second.split()[0].endswith("q")
    names, *_ = first.split()
    assert "…" not in "\n".join(drawing).replace(names, "").replace(second.split()[0], "")
    whole = {
        "cartpole",
        "ready",
        "4,096",
        "1,024",
        "1,030",
        "123,456",
        "4,321",
        "17",
        "1.53",
        "ms",
        "191",
        "MiB",
        "3.52",
    }
    assert set(first.split()[1:]) <= whole
    assert "1,024" in first


def test_what_is_left_out_first_is_what_is_missed_least():
    heads = next(line for line in lines(VIEW, 80) if line.startswith("host"))
    assert {"state", "in use", "steps/s", "failed", "lag"} <= {word for word in COLUMNS if word in heads}
    assert not {"memory", "cores", "pool"} & {word for word in COLUMNS if word in heads}


COLUMNS = (
    "pool",
    "state",
    "slots",
    "in use",
    "leased",
    "steps/s",
    "episodes/s",
    "failed",
    "lag",
    "memory",
    "cores",
)


def test_a_wide_terminal_shows_everything():
    heads = next(line for line in lines(VIEW, 200) if line.startswith("host"))
    assert all(word in heads for word in COLUMNS)
    assert NAMES[0] in "\n".join(lines(VIEW, 200))


def test_what_a_host_alone_does_not_tell_is_a_dash():
    view = view_of_pools([placement_pb2.Pool(name="default", ready_hosts=1, slots=8, leased=2)])
    heads, row = lines(view, 200)[-2:]
    told = dict(
        zip(heads.replace("in use", "in_use").split(), row.replace("1 ready", "1").split(), strict=False)
    )
    assert (told["steps/s"], told["episodes/s"], told["failed"]) == ("–", "–", "–")
    assert (told["slots"], told["in_use"], told["queued"]) == ("8", "2", "0")


def test_columns_are_left_out_in_order_until_the_rest_fits():
    widths = {"name": 10, "a": 5, "b": 5, "c": 5}
    assert fitting(widths, ("b", "a"), 31) == ["name", "a", "b", "c"]
    assert fitting(widths, ("b", "a"), 30) == ["name", "a", "c"]
    assert fitting(widths, ("b", "a"), 1) == ["name", "c"]


def test_a_name_is_shortened_in_its_middle():
    assert shortened("cartpole-1", 10) == "cartpole-1"
    assert shortened("cartpole-1", 7) == "car…e-1"
    assert shortened("cartpole-1", 2) == "…1"

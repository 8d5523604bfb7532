"""Progress is a courtesy: where nobody can see it, nothing is shown and nothing breaks."""

import io
import sys

import pytest

from envmesh.outcome import EnvironmentSpec, Trajectory
from envmesh.progress import Progress
from envmesh.v1 import environment_pb2 as pb


def shown(progress: Progress) -> None:
    progress.start()
    progress.advance(
        Trajectory(EnvironmentSpec(pb.EnvironmentInfo(name="x")), bytes(16), seed=1, options=None), 0
    )
    progress.close()
    assert progress.done == 1


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed()], ids=["a program without a console", "a closed one"])
def test_standard_error_that_is_not_there(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    shown(Progress("cartpole", 3))


def test_a_stream_that_is(capsys):
    shown(Progress("cartpole", 3))
    assert "1/3 episodes" in capsys.readouterr().err

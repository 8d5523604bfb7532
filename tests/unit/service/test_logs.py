import io
import json
import logging
import signal
import subprocess
import sys

import pytest

from envmesh_service.logs import configure


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


def test_json_lines_have_what_varies_as_fields(stream):
    configure("info", service="broker", stream=stream)
    log = logging.getLogger("envmesh.test")
    log.debug("not seen")
    log.info("host lost", extra={"host": "h0", "after": 1.5})
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    said = {"level": "info", "service": "broker", "logger": "envmesh.test", "message": "host lost"}
    assert first == said | {"host": "h0", "after": 1.5}
    assert "ValueError: broken" in second["traceback"]


def test_text_is_one_line_for_people(stream):
    configure("debug", service="host", form="text", stream=stream)
    logging.getLogger("envmesh.test").warning("slow", extra={"lag": 0.3})
    assert stream.getvalue()[13:] == "warning host  slow  lag=0.3\n"


def test_unknown_levels_and_forms_are_refused(stream):
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        configure("loud", service="x", stream=stream)
    with pytest.raises(ValueError, match="auto, text or json"):
        configure("info", service="x", form="xml", stream=stream)


def test_a_signal_turns_debug_on_and_off_in_a_running_process():
    program = """
import logging, sys
from envmesh_service.logs import configure
configure("warning", service="host", form="json", stream=sys.stdout)
for _ in sys.stdin:
    logging.getLogger("envmesh").debug("details")
    print("asked", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> list[str]:
            process.stdin.write("x\n")
            return list(iter(process.stdout.readline, "asked\n"))

        assert ask() == []
        process.send_signal(signal.SIGUSR1)
        (line,) = ask()
        assert json.loads(line)["message"] == "details"
        process.send_signal(signal.SIGUSR1)
        assert ask() == []
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_what_a_process_is_stands_in_each_json_line_unless_the_line_says_otherwise():
    program = """
import logging, sys
from envmesh_service.logs import configure, identify
configure("info", service="host", form="json", stream=sys.stdout)
identify(host="h7")
log = logging.getLogger("envmesh.host")
log.info("draining")
log.warning("an episode failed", extra={"episode": "00ff", "lease": "1234", "host": "another"})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["host"], first["message"]) == ("h7", "draining")
    assert (second["host"], second["episode"], second["lease"]) == ("another", "00ff", "1234")

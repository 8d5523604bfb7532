"""The live page in a real browser, of a real mesh at work."""

import json
import math
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from envmesh.v1 import fleet_pb2, fleet_pb2_grpc
from tests.browser.chromium import complaints, in_scheme
from tests.environments.repair import HOSTILE
from tests.integration.command_line import ENVMESH, Running, environ, envmesh, started

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser"), pytest.mark.timeout(150)]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20


@pytest.fixture(scope="module")
def mesh() -> Iterator[Running]:
    """A mesh that two trainers are at."""
    targets = ("cartpole=gymnasium:CartPole-v1", "repair=tests.environments.repair:Repair")
    with started("up", *targets, "--listen", "127.0.0.1:0", cwd=ROOT) as running:
        plays = [
            ("cartpole", "--concurrency", "40"),
            ("repair", "--concurrency", "12", "--policy", "tests.environments.repair:act"),
        ]
        trainers = [
            subprocess.Popen(
                [ENVMESH, "run", *play, "--seconds", "240", "--mesh", running.address],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=environ(),
            )
            for play in plays
        ]
        try:
            yield running
        finally:
            for trainer in trainers:
                trainer.kill()
                trainer.wait(timeout=10)


@pytest.fixture
def page(driver, mesh: Running):
    """The page, freshly opened, once it shows the mesh at work."""
    in_scheme(driver, "light")
    driver.get(mesh.announced["page"])
    driver.execute_script("delete document.documentElement.dataset.theme")
    until(driver, lambda: figure(driver, "steps") > 0)
    return driver


def until(driver, condition, seconds: float = PATIENCE):
    return WebDriverWait(driver, seconds, poll_frequency=0.1).until(lambda _: condition())


def text(driver, selector: str) -> str:
    return str(driver.execute_script(f"return document.querySelector({selector!r})?.textContent ?? ''"))


def figure(driver, what: str) -> float:
    shown = driver.execute_script(
        "return [...document.querySelectorAll('.tile')].find((t) => t.firstChild.textContent === arguments[0])"
        "?.querySelector('.figure').firstChild.textContent ?? ''",
        what,
    )
    return float(shown.replace(",", "")) if re.fullmatch(r"[\d,.]+", shown) else -1.0


def press(driver, key: str) -> None:
    driver.find_element(By.TAG_NAME, "body").send_keys(key)


def test_the_mesh_is_seen_at_a_glance(page, mesh: Running):
    assert figure(page, "hosts") == 2
    until(page, lambda: figure(page, "slots in use") == 52)
    assert text(page, "#place") == mesh.address
    cells = (
        "return [...document.querySelectorAll('#hosts tbody td:first-child')].map((cell) => cell.textContent)"
    )
    names = page.execute_script(cells)
    assert [name for name in names if name.endswith("-1")] == ["cartpole-1", "repair-1"]
    until(
        page,
        lambda: page.execute_script("return document.querySelectorAll('#environments polyline').length") >= 6,
    )
    assert complaints(page) == []


def test_what_a_host_says_that_is_no_number_is_a_dash(driver):
    identity = fleet_pb2.HostIdentity(host_id="odd", pool="odd", address="127.0.0.1:1", slots=1)
    identity.environments.add(name="odd", version="1")
    report = fleet_pb2.HostReport(
        state=fleet_pb2.HOST_STATE_READY, event_loop_lag=math.nan, cpu_seconds=math.inf
    )
    over = threading.Event()

    def said() -> Iterator[fleet_pb2.RegisterRequest]:
        yield fleet_pb2.RegisterRequest(identity=identity)
        yield fleet_pb2.RegisterRequest(report=report)
        over.wait(PATIENCE)

    target = "repair=tests.environments.repair:Repair"
    with (
        started("up", target, "--listen", "127.0.0.1:0", cwd=ROOT) as running,
        grpc.insecure_channel(running.announced["fleet"]) as channel,
    ):
        registered = fleet_pb2_grpc.FleetServiceStub(channel).Register(said())
        next(registered)
        driver.get(running.announced["page"])
        cells = (
            "const rows = [...document.querySelectorAll('#hosts tbody tr')];"
            "const row = rows.find((each) => each.cells[0].title.startsWith('odd'));"
            "return row && [3, 4, 6].map((at) => row.cells[at].textContent)"
        )  # steps a second, which take a second look; lag; processors
        until(driver, lambda: driver.execute_script(cells) == ["0", "–", "–"])
        assert complaints(driver) == []
        over.set()
        registered.cancel()


def test_failures_are_listed_and_stay_text(page):
    until(page, lambda: HOSTILE in text(page, "#failures tbody"))
    assert "ENVIRONMENT_RAISED" in text(page, "#failures tbody")
    assert not page.find_elements(By.TAG_NAME, "img")
    assert page.title == "envmesh, live"


@pytest.mark.parametrize("environment", ["cartpole@1", "repair@1"])
def test_an_episode_is_followed_step_by_step_without_its_values(page, environment: str):
    page.execute_script("document.getElementById('which').value = arguments[0]", environment)
    press(page, "f")
    until(page, lambda: "episodes seen to their end" in text(page, "#episode-line"))
    steps = "return document.querySelectorAll('#steps tbody tr:not(.event)').length"
    until(
        page, lambda: page.execute_script(steps) > 3
    )  # an episode may have fewer, or have been found at its end
    values = "return [...document.querySelectorAll('#steps code')].map((c) => c.textContent).join('')"
    assert page.execute_script(values) == ""
    press(page, "f")
    assert text(page, "#go") == "Follow"
    assert complaints(page) == []


def test_steps_come_one_after_the_other(page):
    page.execute_script("document.getElementById('which').value = 'repair@1'")
    press(page, "f")
    until(page, lambda: "episodes seen to their end" in text(page, "#episode-line"))
    press(page, "f")
    rows = page.execute_script(
        "return [...document.querySelectorAll('#steps tbody tr')].map((r) =>"
        " r.classList.contains('event') ? '' : r.cells[0].textContent).reverse()"
    )
    runs = [
        run.split()
        for run in " ".join(row or "|" for row in rows).replace("reset", "0").split("|")
        if run.strip()
    ]
    for run in runs:
        assert [int(index) for index in run] == list(range(int(run[0]), int(run[0]) + len(run)))


def test_values_are_shown_to_who_asks_and_stay_text(page):
    page.execute_script("document.getElementById('which').value = 'repair@1'")
    press(page, "v")
    press(page, "f")
    until(page, lambda: f"echo '{HOSTILE}'" in text(page, "#steps tbody"))
    assert "ran 12 tests" in text(page, "#steps tbody")
    assert not page.find_elements(By.TAG_NAME, "img")
    press(page, "f")


def test_one_episode_is_followed_by_its_id(page):
    page.execute_script("document.getElementById('which').value = 'repair@1'")
    press(page, "f")
    until(page, lambda: re.search(r"episode ([0-9a-f]{32})", text(page, "#episode-line")))
    press(page, "f")
    field = page.find_element(By.ID, "episode")
    field.send_keys("00" * 16)
    page.find_element(By.ID, "go").click()
    assert text(page, "#go") == "Stop"
    page.find_element(By.ID, "go").click()
    field.clear()
    field.send_keys("nonsense")
    page.find_element(By.ID, "go").click()
    assert "32 hexadecimal digits" in text(page, "#follow-note")


def test_pausing_holds_the_picture_still(page):
    press(page, "p")
    before = text(page, "#status")
    assert page.find_element(By.ID, "pause").get_attribute("aria-pressed") == "true"
    with pytest.raises(TimeoutException):
        until(page, lambda: text(page, "#status") != before, 2.5)
    press(page, "p")
    until(page, lambda: text(page, "#status") != before)


def test_light_and_dark(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(ground)
    in_scheme(page, "dark")
    until(page, lambda: page.execute_script(ground) != light)
    press(page, "t")
    assert page.execute_script(ground) == light


def test_it_fits_a_telephone(page):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        until(page, lambda: page.execute_script("return document.documentElement.scrollWidth") <= 390)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


# ---- without a browser


def ask(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("path", "headers", "status", "words"),
    [
        ("", {}, 200, "<title>envmesh, live</title>"),
        ("nothing", {}, 404, "there is the page, at /"),
        ("", {"Host": "evil.example:80"}, 421, "127.0.0.1"),
        ("events", {"Host": "evil.example:80"}, 421, "127.0.0.1"),
        ("follow", {}, 400, "either environment=name@version or episode="),
        ("follow?environment=a@1&episode=00", {}, 400, "either"),
        ("follow?episode=zz", {}, 400, "either"),
    ],
)
def test_what_it_answers(mesh: Running, path: str, headers: dict[str, str], status: int, words: str):
    found, said = ask(mesh.announced["page"] + path, **headers)
    assert found == status
    assert words in said


def test_a_head_has_no_body_a_post_is_refused_and_a_file_may_load_nothing_from_elsewhere(mesh: Running):
    page = mesh.announced["page"]
    with urllib.request.urlopen(page, timeout=10) as whole:
        body = whole.read()
        assert "default-src 'none'" in whole.headers["Content-Security-Policy"]
    with urllib.request.urlopen(urllib.request.Request(page, method="HEAD"), timeout=10) as head:
        assert (head.read(), head.headers["Content-Length"]) == (b"", str(len(body)))
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(page, data=b"", timeout=10)


def test_events_begin_with_a_picture_and_go_on(mesh: Running):
    with urllib.request.urlopen(mesh.announced["page"] + "events", timeout=10) as events:
        names = [line for _ in range(9) if (line := events.readline()).startswith(b"event:")]
    assert names == [b"event: beginning\n", b"event: now\n", b"event: now\n"]


def test_the_fleet_is_not_told_what_the_page_is(mesh: Running):
    done = envmesh("top", "--once", "--json", "--interval", "0.3", "--mesh", mesh.address)
    assert "watched" not in json.dumps(json.loads(done.stdout))

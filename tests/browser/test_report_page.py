"""The report in a real browser: light and dark, by keyboard, and nothing an episode says becomes markup."""

from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import recorded
from tests.browser.chromium import complaints, in_scheme
from tests.integration.command_line import envmesh_json

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

METRICS = """\
# TYPE envmesh_step_duration_seconds histogram
envmesh_step_duration_seconds_bucket{environment="repair@2",le="0.05"} 60
envmesh_step_duration_seconds_bucket{environment="repair@2",le="0.1"} 90
envmesh_step_duration_seconds_bucket{environment="repair@2",le="+Inf"} 100
envmesh_step_duration_seconds_count{environment="repair@2"} 100
envmesh_step_duration_seconds_sum{environment="repair@2"} 6
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    recorded.record(directory / "repair.jsonl")
    (directory / "metrics.txt").write_text(METRICS)
    told = envmesh_json(
        "report", "repair.jsonl", "--metrics", "metrics.txt", "--title", f"run 7 {recorded.HOSTILE}", cwd=directory
    )  # fmt: skip
    assert told["episodes"] == 900
    return directory / told["file"]


def texts(driver, selector: str) -> list[str]:
    return [each.text for each in driver.find_elements(By.CSS_SELECTOR, selector)]


def test_it_tells_the_run_at_a_glance(driver, page: Path):
    driver.get(page.as_uri())
    figures = dict(zip(texts(driver, ".tile .what"), texts(driver, ".tile .figure"), strict=True))
    assert figures["episodes"] == "900"
    assert int(figures["failed"]) > 0
    assert int(figures["rebuilt"]) > 0
    headings = [heading.partition("\n")[0] for heading in texts(driver, "h2")]
    assert [h.split("  ")[0].split(" sum")[0] for h in headings][:1] == ["Return"]
    assert len(driver.find_elements(By.CSS_SELECTOR, "section.card svg[role=img]")) >= 7
    assert len(driver.find_elements(By.CSS_SELECTOR, "path.resume")) == int(figures["rebuilt"])
    assert complaints(driver) == []


def test_what_episodes_say_stays_text(driver, page: Path):
    driver.get(page.as_uri())
    assert driver.title.startswith("run 7 </code>")
    assert "owned" not in driver.title.replace("='owned'", "")
    assert not driver.find_elements(By.TAG_NAME, "img")
    assert len(driver.find_elements(By.TAG_NAME, "script")) == 1
    driver.find_element(By.CSS_SELECTOR, "summary").click()
    assert any(recorded.HOSTILE in value for value in texts(driver, "details[open] code.value"))


def test_nothing_runs_or_loads_even_if_markup_came_in(driver, page: Path):
    driver.get(page.as_uri())
    inject = """
        const made = document.createElement('script'); made.textContent = "document.title = 'owned'";
        document.body.append(made);
        const image = new Image(); image.src = 'http://127.0.0.1:9/x.png'; document.body.append(image);
    """
    driver.execute_script(inject)
    assert driver.title != "owned"
    assert sum("Content Security Policy" in words for words in complaints(driver)) == 2


def test_the_keyboard_alone_is_enough(driver, page: Path):
    driver.get(page.as_uri())

    def keys(key: str) -> None:
        driver.switch_to.active_element.send_keys(key)

    keys("j")
    keys("j")
    focused = driver.switch_to.active_element
    assert focused.tag_name == "summary"
    keys(Keys.ENTER)
    opened = driver.find_elements(By.CSS_SELECTOR, "details[open]")
    assert len(opened) == 1
    assert opened[0].find_elements(By.CSS_SELECTOR, "table.steps tr")
    keys("k")
    assert driver.switch_to.active_element != focused
    keys(Keys.ESCAPE)
    assert not driver.find_elements(By.CSS_SELECTOR, "details[open]")


def ground(driver) -> str:
    return str(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))


def test_light_and_dark_follow_the_system_and_the_reader(driver, page: Path):
    in_scheme(driver, "light")
    driver.get(page.as_uri())
    light = ground(driver)
    in_scheme(driver, "dark")
    WebDriverWait(driver, 5).until(lambda d: ground(d) != light)
    driver.find_element(By.TAG_NAME, "body").send_keys("t")
    assert ground(driver) == light


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_window(driver, page: Path, width: int):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        driver.get(page.as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

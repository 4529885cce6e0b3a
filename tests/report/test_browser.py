"""The page in Chromium: nothing is loaded, tables sort, narrow and dark it can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from onnx_lowrank.report import curve_to_html, to_html
from screenshots import SCHEMES, WIDTHS, browser_programs, look, open_browser
from tests.report.curves import MISSED, curve, point
from tests.report.found import FOUND_BOXES, FOUND_PIXELS, FOUND_TEXTS
from tests.report.pages import FIGURES, deep, sample

pytestmark = pytest.mark.skipif(browser_programs() is None, reason="chromium and chromedriver are not installed")

LAYERS = 40
MIN_CONTRAST = 4.5  # of text: WCAG 2.1, success criterion 1.4.3
LONG = "model/backbone/stage{}/with_a_name_that_has_no_place_to_be_broken_anywhere_at_all/Conv"

# Of every piece of text the contrast with what is behind it, and what it is: the lowest of them.
CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const numbers = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (colour) => {
  const [r, g, b] = colour.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const found = numbers(getComputedStyle(each).backgroundColor);
    if (found[3] === 255) return found;
    if (found[3] !== 0) throw new Error("half transparent");
  }
  return [255, 255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
  const style = getComputedStyle(element);
  const ink = light(numbers(element.closest("svg") ? style.fill : style.color));
  const paper = light(behind(element));
  found.push([(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), walker.currentNode.data.trim()]);
}
found.sort((a, b) => a[0] - b[0]);
return [found.length, ...found[0]];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all there can be: many layers, long names, synthetic data, pictures of every kind."""
    report, figures = deep(LAYERS, LONG)
    shares = sample(7, agree=False, probabilities=True)
    report = replace(report, calibration=replace(report.calibration, synthetic=True, source="/a" * 200))
    figures = replace(figures, samples=(*FIGURES.samples, shares), found=(*FOUND_BOXES, *FOUND_PIXELS, *FOUND_TEXTS))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(to_html(report, figures), encoding="utf-8")
    return path


@pytest.fixture
def shown(browser: Chrome, page: Path) -> Chrome:
    """The page, freshly loaded."""
    look(browser, WIDTHS["wide"], "light")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())
    return browser


def test_it_asks_for_nothing_and_says_nothing(shown: Chrome, page: Path) -> None:
    events = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
    assert shown.get_log("browser") == []
    sizes = [shown.execute_script("return arguments[0].naturalWidth", each) for each in every(shown, "img")]
    assert sizes == [12, 12, 100, 12, *5 * [160]]


def every(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def test_charts_have_their_marks(shown: Chrome) -> None:
    wanted = {"linear": LAYERS - 1, "solved": LAYERS - 1, "before": LAYERS, "after": LAYERS, "curve": LAYERS}
    assert {kind: len(every(shown, f".mark.{kind}")) for kind in wanted} == wanted
    for svg in every(shown, "svg"):
        assert svg.size["width"] > 100
        assert svg.size["height"] > 50
    assert all(len(svg.accessible_name) > 30 for svg in every(shown, "svg"))
    assert {svg.aria_role for svg in every(shown, "svg")} <= {"img", "image"}


def test_boxes_lie_on_their_images(shown: Chrome) -> None:
    pictures = every(shown, ".found svg")
    assert len(pictures) == 6
    for picture in pictures:
        image = picture.find_element(By.CSS_SELECTOR, "image, use")
        assert image.rect == picture.rect
        for line in picture.find_elements(By.CSS_SELECTOR, ".line"):
            x, scale = float(line.get_attribute("x") or 0), picture.rect["width"] / 160
            assert abs(line.rect["x"] - picture.rect["x"] - x * scale) <= 1
    dashed = [line.value_of_css_property("stroke-dasharray") for line in every(shown, ".found .alone .line")]
    assert dashed == ["5px, 4px"]


def column(browser: Chrome, number: int) -> list[str]:
    """Cells as they are shown, from top to bottom."""
    script = (
        "return [...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[arguments[0]].innerText)"
    )
    found: list[str] = browser.execute_script(script, number)
    return found


def sorts(browser: Chrome) -> list[str | None]:
    """How each column is sorted, asked for in one round trip."""
    script = "return [...document.querySelectorAll('.sortable thead th')].map((head) => head.getAttribute('aria-sort'))"
    found: list[str | None] = browser.execute_script(script)
    return found


def press(how: str) -> Any:
    return WebElement.click if how == "mouse" else lambda button: button.send_keys(how)


@pytest.mark.parametrize("how", ["mouse", Keys.ENTER, Keys.SPACE])
def test_tables_sort(shown: Chrome, how: str) -> None:
    buttons = every(shown, ".sortable thead button")
    titles = [button.text for button in buttons]
    assert sorts(shown) == ["ascending"] + ["none"] * (len(titles) - 1)
    rank, solved = titles.index("channel rank"), titles.index("error, solved")
    press(how)(buttons[rank])
    found = column(shown, rank)
    assert found[:-1] == sorted(found[:-1], key=int)
    assert found[-1] == ""  # the layer that stays has none
    assert sorts(shown)[rank] == "ascending"
    assert sorts(shown).count("none") == len(titles) - 1
    press(how)(buttons[rank])
    found = column(shown, rank)
    assert found[:-1] == sorted(found[:-1], key=int, reverse=True)
    assert found[-1] == ""
    assert sorts(shown)[rank] == "descending"
    press(how)(buttons[solved])
    found = column(shown, solved)
    assert found[:-1] == sorted(found[:-1], key=float)
    press(how)(buttons[0])
    assert column(shown, 0) == [str(number) for number in range(1, LAYERS + 1)]


def test_every_column_sorts(shown: Chrome) -> None:
    for number, button in list(enumerate(every(shown, ".sortable thead button")))[1:]:
        button.click()
        button.click()
        assert sorts(shown)[number] == "descending"
        assert sorted(column(shown, 0), key=int) == [str(each) for each in range(1, LAYERS + 1)]


def test_keys_reach_everything(shown: Chrome) -> None:
    wanted = every(shown, ".skip, [tabindex='0'], button")
    for element in wanted:
        ActionChains(shown).send_keys(Keys.TAB).perform()
        assert shown.switch_to.active_element == element
        assert element.value_of_css_property("outline-style") == "solid"
    skip = wanted[0]
    shown.execute_script("arguments[0].focus()", skip)
    assert skip.rect["y"] >= 0
    skip.send_keys(Keys.ENTER)
    assert shown.switch_to.active_element.tag_name == "main"


@pytest.mark.parametrize("width", [360, 320, 800, 1280])
def test_only_tables_scroll_sideways(shown: Chrome, width: int) -> None:
    look(shown, width, "light")
    script = "const page = document.scrollingElement; return [page.scrollWidth, page.clientWidth]"
    wide, room = shown.execute_script(script)
    assert wide <= room <= width
    beyond = """return [...document.querySelectorAll("body *")]
        .filter((each) => !each.closest(".scroll, .unseen, svg"))
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
        .map((each) => each.outerHTML.slice(0, 80))"""
    assert shown.execute_script(beyond) == []


@pytest.mark.parametrize("width", WIDTHS.values())
@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_can_be_read(shown: Chrome, scheme: str, width: int) -> None:
    look(shown, width, scheme)
    texts, contrast, text = shown.execute_script(CONTRAST)
    assert texts > 500
    assert contrast >= MIN_CONTRAST, text
    dark = shown.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"
    assert dark == (scheme == "dark")


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep with all there can be: many points, one out of reach, a long name, synthetic data."""
    points = (*(point(1.5 + 0.5 * number, 0.97 - 0.02 * number) for number in range(12)), MISSED)
    report = curve(points)
    synthetic = replace(report.calibration, synthetic=True, source="/a" * 200)
    report = replace(report, calibration=synthetic, input=f"{LONG}.onnx")
    path = tmp_path_factory.mktemp("page") / "sweep.html"
    path.write_text(curve_to_html(report), encoding="utf-8")
    return path


@pytest.fixture
def sweep_shown(browser: Chrome, sweep_page: Path) -> Chrome:
    """The page of the sweep, freshly loaded."""
    look(browser, WIDTHS["wide"], "light")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(sweep_page.as_uri())
    return browser


def test_a_sweep_asks_for_nothing_and_says_nothing(sweep_shown: Chrome, sweep_page: Path) -> None:
    events = [json.loads(entry["message"])["message"] for entry in sweep_shown.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [sweep_page.as_uri()]
    assert sweep_shown.get_log("browser") == []


def test_a_sweep_has_a_mark_for_every_point(sweep_shown: Chrome) -> None:
    for kind, wanted in {"original": 2, "front": 24}.items():
        found = every(sweep_shown, f".mark.{kind}")
        assert len(found) == wanted
        assert all(mark.size["width"] > 3 for mark in found)
    for svg in every(sweep_shown, "svg"):
        assert svg.size["width"] > 300
        assert "1.5x" in svg.accessible_name


def test_a_sweep_sorts(sweep_shown: Chrome) -> None:
    buttons = every(sweep_shown, ".sortable thead button")
    accuracy = [button.text for button in buttons].index("top-1, %")
    buttons[accuracy].click()
    found = column(sweep_shown, accuracy)
    assert found[:-1] == sorted(found[:-1], key=float)
    assert found[-1] == ""  # the target out of reach has none


@pytest.mark.parametrize("width", [360, 320, 800, 1280])
def test_only_tables_and_charts_of_a_sweep_scroll_sideways(sweep_shown: Chrome, width: int) -> None:
    look(sweep_shown, width, "light")
    wide, room = sweep_shown.execute_script(
        "const page = document.scrollingElement; return [page.scrollWidth, page.clientWidth]"
    )
    assert wide <= room <= width


@pytest.mark.parametrize("width", WIDTHS.values())
@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_of_a_sweep_can_be_read(sweep_shown: Chrome, scheme: str, width: int) -> None:
    look(sweep_shown, width, scheme)
    texts, contrast, text = sweep_shown.execute_script(CONTRAST)
    assert texts > 150
    assert contrast >= MIN_CONTRAST, text

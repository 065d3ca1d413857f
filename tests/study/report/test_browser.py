"""The page in a browser: what it says, that it sorts, fits a phone, and asks for nothing but itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from study.run.metrics import average_accuracy
from tests.study.report.reading import html_tables
from tests.study.report.synthetic import all_records, failed, search_records, toy, written

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE, DESK = 375, 1280

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason=f"needs a browser: {CHROMIUM} and {DRIVER}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    protocol = toy()
    records = [*all_records(protocol), failed(protocol, "ewc", 4)]
    return written(tmp_path_factory.mktemp("report"), records, search_records(protocol))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, folder: Path) -> webdriver.Chrome:
    show(browser, folder, DESK)
    return browser


def show(browser: webdriver.Chrome, folder: Path, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for log in ("browser", "performance"):
        browser.get_log(log)  # forget what was before
    browser.get((folder / "index.html").as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")


def rows(table: WebElement) -> list[list[str]]:
    """The texts of all cells, those that have scrolled out of sight too."""
    script = "return [...arguments[0].tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent))"
    return table.parent.execute_script(script, table)


def heading(table: WebElement, text: str) -> tuple[int, WebElement]:
    headings = table.find_elements(By.CSS_SELECTOR, "thead th")
    (index,) = [i for i, th in enumerate(headings) if th.get_property("textContent").strip() == text]
    return index, headings[index]


def test_it_loads_without_an_error_and_asks_for_nothing_but_itself(page, folder):
    assert page.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {(folder / "index.html").as_uri()}
    assert page.title == "Toy & <Digits>"
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


def test_it_shows_the_numbers_of_the_records(page, folder):
    finished = [record for record in all_records(toy()) if record.run.scenario == "class"]
    found = {cells[0]: cells for cells in rows(page.find_element(By.ID, "table-results-class"))}
    for method in toy().methods:
        scores = [100 * average_accuracy(record.accuracy) for record in finished if record.run.label == method]
        assert found[method][1].split()[0] == f"{sum(scores) / len(scores):.2f}"
        cell = page.find_element(By.XPATH, f"//table[@id='table-results-class']//tr[th='{method}']/td[1]")
        assert float(cell.get_attribute("data-value")) == pytest.approx(sum(scores) / len(scores), rel=1e-12)
    for table in page.find_elements(By.TAG_NAME, "table"):
        caption = table.find_element(By.TAG_NAME, "caption").get_property("textContent").strip()
        assert rows(table) == html_tables(folder)[caption][1:]


def test_a_click_sorts_by_number_and_a_third_one_restores_the_order(page):
    table = page.find_element(By.ID, "table-pairs-class")
    original = rows(table)
    column, th = heading(table, "difference, 95% interval")
    button = th.find_element(By.TAG_NAME, "button")

    def values() -> list[float]:
        return [float(cells[column].split()[0].replace("−", "-")) for cells in rows(table)]

    page.execute_script("arguments[0].click()", button)
    assert values() == sorted(values()) != [float(cells[column].split()[0].replace("−", "-")) for cells in original]
    assert th.get_attribute("aria-sort") == "ascending"
    page.execute_script("arguments[0].click()", button)
    assert values() == sorted(values(), reverse=True)
    assert th.get_attribute("aria-sort") == "descending"
    page.execute_script("arguments[0].click()", button)
    assert rows(table) == original
    assert th.get_attribute("aria-sort") is None


def test_the_keyboard_sorts_and_what_is_missing_comes_last_either_way(page):
    table = page.find_element(By.ID, "table-results-class")
    column, th = heading(table, "λ")
    button = th.find_element(By.TAG_NAME, "button")
    button.send_keys(Keys.ENTER)
    assert [cells[column] for cells in rows(table)] == ["100", "1e6", "–", "–", "–"]  # not "1e6" before "100" as text
    button.send_keys(Keys.SPACE)
    assert [cells[column] for cells in rows(table)] == ["1e6", "100", "–", "–", "–"]
    _, other = heading(table, "method")
    other.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert [cells[0] for cells in rows(table)] == sorted(toy().methods)
    assert th.get_attribute("aria-sort") is None
    assert other.get_attribute("aria-sort") == "ascending"


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_does_not_scroll_sideways_its_tables_do(browser, folder, width):
    show(browser, folder, width)
    whole, visible, scrolled = browser.execute_script(
        "const root = document.documentElement;"
        "window.scrollTo(10000, 0);"
        "return [root.scrollWidth, root.clientWidth, window.scrollX]"
    )
    assert whole == visible <= width
    assert scrolled == 0
    results = browser.find_element(By.ID, "table-results-class")
    table, region = browser.execute_script(
        "return [arguments[0].scrollWidth, arguments[0].parentElement.clientWidth]", results
    )
    if width == PHONE:
        assert table > region
    cut_off = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth - box.clientWidth > 1,"
        " getComputedStyle(box.nextElementSibling).display !== 'none'])"
    )
    assert all(hinted == hidden for hidden, hinted in cut_off), "a table that is cut off says so, and no other does"
    assert width == DESK or any(hidden for hidden, _ in cut_off)
    for svg in browser.find_elements(By.CSS_SELECTOR, "figure svg"):
        assert svg.rect["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground_in_the_page_and_in_the_figures(browser, folder, scheme):
    show(browser, folder, DESK, scheme)
    colors = browser.execute_script(
        """
        const ground = getComputedStyle(document.body).backgroundColor;
        const seen = new Set();
        for (const e of document.querySelectorAll("p, li, th, td, h2, .mark, .interval, a, figcaption, summary"))
            seen.add(getComputedStyle(e).color);
        for (const e of document.querySelectorAll("figure svg text"))
            if (!e.closest("#figure-matrices-class, #figure-matrices-task")) seen.add(getComputedStyle(e).fill);
        return [ground, [...seen]];
        """
    )
    ground, seen = colors
    assert (luminance(ground) > 0.5) == (scheme == "light")
    assert len(seen) >= 4
    for color in seen:
        bright, dark = sorted((luminance(color), luminance(ground)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, f"{color} on {ground}, {scheme}"


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 has it."""
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_verdicts_are_words_with_their_marks(page):
    verdicts = page.find_elements(By.CSS_SELECTOR, "#table-published-class .mark")
    assert {verdict.text for verdict in verdicts} == {"reproduced", "inconclusive", "below", "above"}
    marks = page.execute_script(
        "return [...document.querySelectorAll('#table-published-class .mark')]"
        ".map(mark => getComputedStyle(mark, '::before').content)"
    )
    assert len(set(marks)) == 4


def test_every_figure_has_a_description(page, folder):
    figures = page.find_elements(By.CSS_SELECTOR, "figure")
    assert len(figures) == len(list((folder / "figures").iterdir())) > 0
    for figure in figures:
        svg = figure.find_element(By.TAG_NAME, "svg")
        assert svg.get_attribute("role") == "img"
        assert len(svg.get_attribute("aria-label")) > 20
        assert figure.find_element(By.TAG_NAME, "figcaption").text

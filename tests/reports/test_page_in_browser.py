"""The page in Chromium, without a network: the slider by keyboard, its numbers, the console, hostile text."""

import json
import shutil

import numpy as np
import pytest
import torch
from record_files import VALUES, exact, hostile, sampled

from lanczos_saddle import count_eigenvalues, recount
from lanczos_saddle.counting.readings import readings
from lanczos_saddle.reports.page import report
from lanczos_saddle.reports.summary import record_of

pytest.importorskip("altair", reason="needs lanczos-saddle[report]")
pytest.importorskip("vl_convert", reason="needs lanczos-saddle[report]")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver")

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,1400"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def counts():
    return sampled()


def opened(browser, folder, page):
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    browser.get("about:blank")  # the browser's own first page has requests of its own
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())
    ready(browser)
    return path.as_uri()


def ready(browser):
    WebDriverWait(browser, 120).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))


def requests(browser):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]


def row(browser, name):
    cells = [browser.find_element(By.ID, f"{name}-0-{i}").text.replace(",", "") for i in range(3)]
    return [
        [int(part) for part in (*cell.split(" – "), cell)[:2]] if " – " in cell else [int(cell)] * 2 for cell in cells
    ]


def test_the_slider_reads_what_recount_gives(browser, counts, tmp_path):
    uri = opened(browser, tmp_path, counts.to_html())
    read = readings(counts)
    slider = browser.find_element(By.ID, "range-0")
    own = int(slider.get_attribute("value"))
    assert read.thresholds[own] == counts.threshold
    assert row(browser, "alone") == [[i.lower, i.upper] for i in (counts.negative, counts.near_zero, counts.positive)]
    slider.send_keys(Keys.HOME)
    for place, tau in enumerate(read.thresholds):
        assert int(slider.get_attribute("value")) == place
        again = recount(counts, float(tau))
        assert row(browser, "alone") == [[i.lower, i.upper] for i in (again.negative, again.near_zero, again.positive)]
        assert row(browser, "together") == read.together[place].tolist()
        low, high = read.together[place][0]
        said = f"negative {low}" if low == high else f"negative {low} to {high}"
        assert said in slider.get_attribute("aria-valuetext")
        slider.send_keys(Keys.ARROW_RIGHT)
    number = browser.find_element(By.ID, "number-0")
    for tau in (3.3e-4, 7e-3, 30.0):
        number.clear()
        number.send_keys(repr(tau), Keys.ENTER)
        assert row(browser, "together") == read.at(tau).tolist()
        assert browser.find_element(By.ID, "alone-0-0").text == "–"
    number.clear()
    number.send_keys("nonsense", Keys.ENTER)
    assert "positive number" in browser.find_element(By.ID, "problem-0").text
    drawn = browser.find_elements(By.CSS_SELECTOR, ".chart svg")
    assert len(drawn) == 6  # two bands, the density, three intervals that closed
    assert requests(browser) == [uri]
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_exact_counts_are_read_at_any_threshold(browser, tmp_path):
    """Between two thresholds of the grid as well: against the eigenvalues themselves."""
    opened(browser, tmp_path, exact().to_html())
    number = browser.find_element(By.ID, "number-0")
    for tau in (3.3e-4, 1.234e-3, 7e-3, 0.05, 0.3, 2.5, *(float(x) for x in np.geomspace(1e-6, 1.1, 20))):
        number.clear()
        number.send_keys(repr(tau), Keys.ENTER)
        below, above = (int(np.count_nonzero(sign * VALUES > tau)) for sign in (-1, 1))
        three = [below, len(VALUES) - below - above, above]
        assert row(browser, "together") == [[n, n] for n in three]


def test_at_phone_width_no_text_overlaps_and_nothing_is_cut(browser, counts, tmp_path):
    """Of a network of a thousand million parameters as well, and of several side by side."""
    opened(browser, tmp_path, report([*record_of(counts), times(*record_of(counts), 12_500_000)]))
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        assert len(set(browser.execute_script(wide))) == 1
        cells = "return [...document.querySelectorAll('.reading :is(th, td)')].map(c => c.scrollWidth - c.clientWidth)"
        assert max(browser.execute_script(cells)) <= 0
        answers = browser.find_elements(By.CSS_SELECTOR, "dd")
        assert min(answer.rect["width"] for answer in answers) > 120
        browser.get(browser.current_url)  # charts take the width at which the page was opened
        ready(browser)
        for name in ("negative", "near_zero", "positive"):
            chart = browser.find_element(By.CSS_SELECTOR, f"[data-chart=compared-{name}]")
            labels = max(text.rect["width"] for text in chart.find_elements(By.CSS_SELECTOR, ".role-axis-label text"))
            assert chart.rect["width"] - labels > 200  # room for the bars
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_ticks_of_counts_are_whole_and_told_apart(browser, tmp_path):
    """With no negative eigenvalue at all, too."""
    values = torch.linspace(1, 2, 30, dtype=torch.float64)
    counts = count_eigenvalues(torch.diag(values), threshold=1e-3, method="lanczos", probes=2, steps=20)
    opened(browser, tmp_path, counts.to_html())
    for chart in browser.find_elements(By.CSS_SELECTOR, "[data-tau]"):
        ticks = [text.text for text in chart.find_elements(By.CSS_SELECTOR, ".role-axis-label text")]
        whole = [tick for tick in ticks if tick.isdigit() and tick != "0"]
        assert len(whole) == len(set(whole)) > 0


def times(record, factor):
    """The same record of a matrix that has every eigenvalue so often."""
    for sign in ("negative", "near_zero", "positive"):
        record[sign] = {end: factor * number for end, number in record[sign].items()}
    for name in ("alone", "together"):
        record["readings"][name] = (factor * np.array(record["readings"][name])).tolist()
    record["closing"]["intervals"] = (factor * np.array(record["closing"]["intervals"])).tolist()
    return record | {"parameters": factor * record["parameters"]}


def test_hostile_text_runs_nothing(browser, counts, tmp_path):
    record = hostile()
    uri = opened(browser, tmp_path, report([record, *record_of(counts)], title=record["plan"]))
    assert browser.execute_script("return window.ran") is None
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert "</script><script>" in browser.find_element(By.TAG_NAME, "h1").text
    assert len(browser.find_elements(By.CSS_SELECTOR, ".chart svg")) == 15
    assert requests(browser) == [uri]
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_scripts_that_are_not_the_page_s_own_are_stopped(browser, counts, tmp_path):
    """The second wall: were an escape forgotten, the policy would hold."""
    page = counts.to_html().replace("<main", "<script>window.ran=1</script><img src=x onerror='window.ran=1'><main")
    opened(browser, tmp_path, page)
    assert browser.execute_script("return window.ran") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))

"""The page in a real browser: what a person does with mouse, keyboard and phone, with the policy on scripts in force."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException, TimeoutException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.serving.browser import browsing
from tests.serving.processes import said

pytestmark = pytest.mark.slow
HOME = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def address(run_folder: Path, knn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("chromium") / "h.sqlite"
    process = subprocess.Popen([sys.executable, "-m", "semid", "serve", str(run_folder), "--beside", str(knn_folder), "--port", "0",
                                "--json", "--store", str(store), "--max-seconds", "60"], cwd=HOME,
                               env={**os.environ, "PYTHONPATH": str(HOME)}, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(said(process))["address"]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chrome, address: str) -> Iterator[Chrome]:
    """At the page's start; afterwards nothing may have been refused or failed."""
    chromium.get(f"{address}/")
    yield chromium
    assert chromium.get_log("browser") == []


def until(browser: Chrome, true: Callable[[], object]) -> None:
    WebDriverWait(browser, 20).until(lambda _: true())


def one(browser: Chrome, selector: str):
    return browser.find_element(By.CSS_SELECTOR, selector)


def click(browser: Chrome, selector: str) -> None:
    """Click what is found; again when it moved away or was replaced between being found and being hit, for then nothing was clicked."""
    missed = ""

    def hit(_: Chrome) -> bool:
        nonlocal missed
        try:
            one(browser, selector).click()
        except (ElementClickInterceptedException, StaleElementReferenceException) as error:
            missed = str(error)
            return False
        return True

    try:
        WebDriverWait(browser, 20).until(hit)
    except TimeoutException:
        pytest.fail(f"{selector} can't be clicked: {missed}")


def texts(browser: Chrome, selector: str) -> list[str]:
    """All at once, so that a list that is replaced meanwhile is no failure."""
    return browser.execute_script("return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)", selector)


def titles(browser: Chrome) -> list[str]:
    return texts(browser, ".lists section:first-child .card h3")


def history(browser: Chrome) -> list[str]:
    return [text.split("\n")[0].removesuffix("×") for text in texts(browser, ".history .added")]


def focused(browser: Chrome) -> str:
    return browser.execute_script("return document.activeElement.id")


def test_a_click_adds_an_item_and_the_list_changes_without_a_new_page(browser: Chrome):
    browser.execute_script("window.stays = true")
    before = titles(browser)
    click(browser, "#add-1-1")
    until(browser, lambda: len(history(browser)) == 1)
    assert history(browser) == [before[0].split(" ", 1)[1]]
    assert titles(browser) != before
    click(browser, "#add-1-2")
    until(browser, lambda: len(history(browser)) == 2)
    assert browser.execute_script("return window.stays") is True
    assert browser.current_url.count("h=") == 2
    click(browser, "#drop-0")
    until(browser, lambda: len(history(browser)) == 1)
    browser.back()
    until(browser, lambda: len(history(browser)) == 2)


def test_titles_are_found_while_typing_and_added_by_keyboard_alone(browser: Chrome):
    one(browser, "#q").send_keys("red lamp")
    until(browser, lambda: texts(browser, "#found button") == ["red paper lamp"])
    ActionChains(browser).send_keys(Keys.TAB, Keys.ENTER).perform()
    until(browser, lambda: history(browser) == ["red paper lamp"])
    assert focused(browser) == "found-1"


def test_a_user_is_typed_with_completion_and_their_history_is_shown(browser: Chrome):
    field = one(browser, "#user")
    field.send_keys("u14")
    completions = "return [...document.querySelectorAll('#users option')].map((each) => each.value)"
    until(browser, lambda: browser.execute_script(completions)[:1] == ["u14"])
    field.send_keys(Keys.ENTER)
    until(browser, lambda: texts(browser, ".history li") and "empty" not in texts(browser, ".history li")[0])
    click(browser, "#add-1-1")
    until(browser, lambda: len(history(browser)) == 1)
    field.clear()
    field.send_keys("u15", Keys.ENTER)
    until(browser, lambda: "user=u15" in browser.current_url)
    until(browser, lambda: history(browser) == [])


def test_sliders_change_the_list_by_keyboard(browser: Chrome):
    click(browser, "#add-1-1")
    until(browser, lambda: len(history(browser)) == 1)
    one(browser, "#k").send_keys(Keys.ARROW_LEFT * 6)
    until(browser, lambda: len(titles(browser)) == 4)
    assert one(browser, 'output[for="k"]').text == "4"
    before = titles(browser)
    one(browser, "#diversity").send_keys(Keys.END)
    until(browser, lambda: "diversity=1" in browser.current_url and titles(browser) != before)
    assert focused(browser) == "diversity"
    one(browser, "#beams").send_keys(Keys.HOME)
    until(browser, lambda: "beams=1" in browser.current_url)


def test_the_filter_completes_columns_and_values_and_narrows_the_list(browser: Chrome):
    field = one(browser, "#where")
    field.send_keys("cat")
    until(browser, lambda: texts(browser, "#offers li")[:1] and texts(browser, "#offers li")[0].startswith("category"))
    field.send_keys(Keys.ARROW_DOWN, Keys.ENTER, "'la", Keys.ARROW_DOWN, Keys.ENTER)
    assert field.get_attribute("value") == "category = 'lamp' "
    field.send_keys("and ta", Keys.ARROW_DOWN, Keys.ENTER, Keys.ARROW_DOWN, Keys.ENTER)
    assert field.get_attribute("value") == "category = 'lamp' and list_contains(tags, 'sale') "
    field.send_keys(Keys.ESCAPE, Keys.ENTER)
    until(browser, lambda: titles(browser) and all(title.endswith("lamp") for title in titles(browser)))
    field.clear()
    field.send_keys("catgory = 'lamp'", Keys.ENTER)
    until(browser, lambda: "did you mean 'category'?" in "".join(texts(browser, "#board .problem")))
    field.clear()
    field.send_keys("price < 3", Keys.ENTER)
    until(browser, lambda: len(titles(browser)) > 0)


def test_why_opens_under_the_card_lights_the_path_and_closes(browser: Chrome):
    click(browser, "#add-1-1")
    until(browser, lambda: len(history(browser)) == 1)
    click(browser, "#why-2")
    until(browser, lambda: "Path down the code tree" in "".join(texts(browser, ".card.told h4")))
    until(browser, lambda: len(texts(browser, '#tree [data-lit="chosen"]')) >= 1)
    assert one(browser, "#why-2").get_attribute("aria-expanded") == "true"
    assert focused(browser) == "why-2"
    click(browser, "#why-2")
    until(browser, lambda: texts(browser, ".why") == [])


def test_the_tree_is_walked_and_opened_by_keyboard_and_mouse(browser: Chrome):
    until(browser, lambda: len(texts(browser, "#tree .cell")) > 3)
    first = one(browser, "#tree [data-under]").get_attribute("data-under")
    browser.execute_script("document.querySelector(`#tree [data-under='${arguments[0]}']`).focus()", first)
    where = lambda: browser.execute_script("return document.activeElement.dataset?.cell")
    start = where()
    ActionChains(browser).send_keys(Keys.ARROW_DOWN).perform()
    until(browser, lambda: where().split(",")[0] == str(int(start.split(",")[0]) + 1))
    ActionChains(browser).send_keys(Keys.ARROW_UP, Keys.ENTER).perform()
    until(browser, lambda: "".join(texts(browser, ".crumbs")).endswith(first))
    until(browser, lambda: focused(browser) == "crumb")
    click(browser, ".crumbs button")
    until(browser, lambda: texts(browser, ".crumbs") == ["All items"])


def test_everything_is_reached_by_tab_has_a_name_and_a_visible_focus(browser: Chrome):
    until(browser, lambda: len(texts(browser, "#tree .cell")) > 3)
    reached = set()
    for _ in range(80):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        name, outline = browser.execute_script(
            "const it = document.activeElement, look = getComputedStyle(it);"
            "return [it.id || it.dataset.cell && 'cell' || it.tagName, look.outlineStyle !== 'none' || it.matches('.cell')]")
        if name == "BODY":
            break
        assert outline, name
        reached.add(name)
    assert {"user", "q", "where", "k", "diversity", "beams", "add-1-1", "why-1", "add-2-1", "cell"} <= reached
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('input:not([type=hidden]), button, [role=button], ul[aria-live], svg')].filter((it) =>"
        "!(it.labels?.length || it.getAttribute('aria-label') || it.innerText || it.closest('svg svg'))).map((it) => it.outerHTML)")
    assert unnamed == []


def test_an_answer_without_the_server_is_a_sentence(browser: Chrome):
    browser.execute_cdp_cmd("Network.enable", {})
    network = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", network)
    try:
        click(browser, "#add-1-1")
        until(browser, lambda: "does not answer" in one(browser, "#trouble").text)
    finally:
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", network | {"offline": False})
    click(browser, "#add-1-1")
    until(browser, lambda: len(history(browser)) == 1 and not one(browser, "#trouble").is_displayed())
    browser.get_log("browser")  # the failure that was wanted


def test_nothing_is_wider_than_a_phone_and_dark_mode_is_dark(address: str):
    with browsing(dark=True, phone=True) as browser:
        browser.get(f"{address}/?h=i6&h=i12&why=i18")
        until(browser, lambda: len(texts(browser, "#tree .cell")) > 3)
        wide, high = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= high == 390
        paper, ink = browser.execute_script("const look = getComputedStyle(document.body); return [look.backgroundColor, look.color]"
                                            ".map((text) => Math.max(...text.match(/[0-9]+/g).map(Number)))")
        assert paper < 60 < 200 < ink
        small = browser.execute_script("return [...document.querySelectorAll('button, input, a')].filter((it) => it.offsetHeight && "
                                       "!it.matches('p a, .default, .skip') && it.offsetHeight < 24).map((it) => it.outerHTML)")
        assert small == []
        assert browser.get_log("browser") == []


def test_without_scripts_forms_still_work(address: str):
    with browsing() as browser:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.get(f"{address}/?h=i6")
        click(browser, "#add-1-1")
        until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".history .added")) == 2)

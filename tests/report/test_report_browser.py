"""The page of a report in a real browser: it works by mouse and keyboard, runs nothing of a row, asks for nothing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from oracles.report_pages import empty_report, full_report
from spice_select.report.page import page

pytest.importorskip("playwright", reason="needs playwright")
pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


@dataclass
class Seen:
    """A page, and what it said and asked for."""

    page: Page
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if program is None:
        pytest.skip(f"no browser found: one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory) -> dict[str, str]:
    """Pages on disk: hostile texts, usual ones, as many rows as a page may hold, and nothing at all."""
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "hostile": full_report(sources=20),
        "usual": full_report(hostile=False),
        "large": full_report(3000, 30_000, hostile=False),
        "empty": empty_report(),
    }
    for name, report in reports.items():
        (folder / f"{name}.html").write_text(page(report), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in reports}


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Seen]:
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(60_000)
    seen = Seen(context.new_page())
    seen.page.on("console", lambda message: seen.faults.append(f"{message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.goto(address)
    yield seen
    context.close()


def search(seen: Seen, words: str) -> str:
    """Type into the search box; what the page says of the result."""
    seen.page.get_by_label("Search id, source and text").fill(words)
    return seen.page.get_by_role("status").inner_text()


def open_row(seen: Seen, row: int) -> Any:
    """Open a row and return it."""
    details = seen.page.locator(f"#row-{row}")
    details.locator("summary").click()
    return details


@pytest.mark.parametrize("name", ["hostile", "usual", "large", "empty"])
def test_it_is_silent_and_asks_for_nothing(browser, addresses, name: str) -> None:
    """No message on the console and no request beside the page and its own images, also after rows were opened."""
    with opened(browser, addresses[name]) as seen:
        for summary in seen.page.locator("#rows summary").all()[:60]:
            summary.click()
        assert seen.faults == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [addresses[name]]


def test_nothing_of_a_row_runs(browser, addresses) -> None:
    """Markup in rows is shown as text."""
    with opened(browser, addresses["hostile"]) as seen:
        for word in ("script", "onerror", "svg", "javascript"):
            search(seen, word)
            seen.page.locator("#rows summary:visible").first.click()
            assert word in seen.page.locator("#rows").inner_text()
        assert seen.page.evaluate("window.hacked") is None
        assert seen.page.locator("#rows script, #rows img, #rows svg").count() == 0
        assert seen.faults == []


def test_search_finds_a_row_which_names_its_picks(browser, addresses) -> None:
    """All words must be there; the row shows its texts and measures, and its picks are links to their own rows."""
    report = full_report(hostile=False)
    row = report.rows[14]
    with opened(browser, addresses["usual"]) as seen:
        assert search(seen, "row-14 planet") == "No rows."
        assert search(seen, "ROW-14 blue") == "1 row."
        details = open_row(seen, 14)
        assert details.locator(".text").all_inner_texts() == [row.prompt, row.response]
        assert "Not kept, pool 0, " in details.inner_text()
        assert f"gain {row.gain:.3g}, base {row.base:.3g}" in details.inner_text()
        second = row.overlaps[1]
        details.get_by_role("link", name=second.id, exact=True).click()
        seen.page.locator(f"#row-{second.row}[open]").wait_for()
        assert "Kept, " in seen.page.locator(f"#row-{second.row}").inner_text()


def test_a_pick_that_is_not_in_the_page_is_named(browser, addresses) -> None:
    """Its cosine is shown, and no link leads to it."""
    with opened(browser, addresses["usual"]) as seen:
        details = open_row(seen, 4)
        assert "Opposes elsewhere (−0.21)" in details.inner_text()
        assert details.get_by_role("link", name="elsewhere").count() == 0


def test_filter_and_order(browser, addresses) -> None:
    """Each order is that of the quantity, both ways; each filter keeps what it says."""
    report = full_report(hostile=False)
    with opened(browser, addresses["usual"]) as seen:
        assert len(shown(seen)) == 60
        seen.page.get_by_label("Show", exact=True).select_option("not picked")
        assert len(shown(seen)) == sum(row.rank is None for row in report.rows)
        seen.page.get_by_label("Show", exact=True).select_option("picked")
        picked = [row for row in report.rows if row.rank is not None]
        for name, upwards in (("score", False), ("gain", False), ("conflict", False), ("tokens", True), ("rank", True)):
            seen.page.get_by_label("Sort by").select_option(name)
            for flipped in (False, True):
                values = [quantity(report.rows[index], name) for index in shown(seen)]
                assert values == sorted((quantity(row, name) for row in picked), reverse=upwards == flipped)
                seen.page.get_by_label("Reverse order").click()


def test_the_keyboard_alone_is_enough(browser, addresses) -> None:
    """The first stop skips to the main part; from the search box, tab and enter reach a row and open it."""
    with opened(browser, addresses["usual"]) as seen:
        keys = seen.page.keyboard
        keys.press("Tab")
        assert focused(seen) == "Skip to the content"
        keys.press("Enter")
        assert seen.page.evaluate("document.activeElement.id") == "main"
        assert tab_to(seen, "document.activeElement.id === 'query'")
        keys.type("row-14")
        assert tab_to(seen, "document.activeElement.matches('#rows summary')")
        assert "row-14" in focused(seen)
        assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        keys.press("Enter")
        assert seen.page.locator("#row-14[open]").count() == 1
        assert tab_to(seen, "document.activeElement.matches('#row-14 a')")


def test_audit_entries_lead_to_rows(browser, addresses) -> None:
    """A row in the page is a link to it, also twice in a row and by the address alone; another is plain text."""
    with opened(browser, addresses["usual"]) as seen:
        search(seen, "row-14")  # the link shows rows that the search has hidden
        section = seen.page.locator("section", has=seen.page.locator("#audit"))
        link = section.get_by_role("link", name="row-9", exact=True).first
        for _ in range(2):
            link.click()
            seen.page.locator("#row-9[open] > summary:focus").wait_for()
        assert section.get_by_role("link", name="far").count() == 0
        assert section.locator("li").get_by_text("far", exact=True).count() == 1
        address = seen.page.url
    with opened(browser, address) as seen:
        assert seen.page.locator("#row-9[open]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "view"), [("hostile", DESKTOP), ("usual", DESKTOP), ("usual", PHONE), ("empty", PHONE)]
)
def test_axe_finds_nothing_serious(browser, addresses, scheme: str, name: str, view: dict[str, int]) -> None:
    """No serious or critical violation of axe's rules, contrast among them, with a row open."""
    with opened(browser, addresses[name], color_scheme=scheme, viewport=view) as seen:
        if name != "empty":
            open_row(seen, 4)
        found = Axe().run(seen.page).response["violations"]
    serious = [
        (v["id"], [node["html"] for node in v["nodes"]]) for v in found if v["impact"] in {"serious", "critical"}
    ]
    assert serious == []


@pytest.mark.parametrize("name", ["hostile", "usual", "large", "empty"])
def test_a_phone_never_scrolls_sideways(browser, addresses, name: str) -> None:
    """At 360 pixels the page is as wide as the screen, with rows open too; only tables scroll, inside themselves."""
    with opened(browser, addresses[name], viewport=PHONE) as seen:
        for summary in seen.page.locator("#rows summary").all()[:20]:
            summary.click()
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert seen.page.evaluate("document.body.scrollWidth") <= PHONE["width"]


def test_paper_has_no_controls(browser, addresses) -> None:
    """In print no button, box or closed row is visible, colours are light, and tables are whole."""
    with opened(browser, addresses["usual"], color_scheme="dark") as seen:
        open_row(seen, 4)
        seen.page.emulate_media(media="print")
        for control in seen.page.locator("button, input, select, nav, .skip, #row-5").all():
            assert not control.is_visible()
        assert seen.page.locator("#row-4").is_visible()
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        hidden = "[...document.querySelectorAll('.scroll')].filter(e => getComputedStyle(e).overflowX !== 'visible')"
        assert seen.page.evaluate(f"{hidden}.length") == 0


def test_a_button_saves_the_ids_of_its_table(browser, addresses) -> None:
    """One a line, as the table names them."""
    report = full_report(hostile=False)
    with opened(browser, addresses["usual"], accept_downloads=True) as seen:
        button = seen.page.locator('button[data-name="loss.txt"]')
        with seen.page.expect_download() as saved:
            button.click()
        assert saved.value.suggested_filename == "loss.txt"
        text = saved.value.path().read_text(encoding="utf-8")
        assert text == "".join(f"{finding.line.id}\n" for finding in report.audit.doubtful.listed)
        assert seen.faults == []


def test_without_javascript_all_but_the_search_is_there(browser, addresses) -> None:
    """The search is hidden; figures, tables, rows and the audit are shown."""
    with opened(browser, addresses["usual"], java_script_enabled=False) as seen:
        assert not seen.page.locator("#finder").is_visible()
        assert seen.page.locator("figure img[alt]").count() == 6
        assert seen.page.locator("#rows summary:visible").count() == 60
        assert seen.page.get_by_role("region", name="Picks whose loss stays high").is_visible()
        assert not seen.page.locator("button:visible").count()
        assert seen.faults == []


# Helpers ----------------------------------------------------------------------------------------------------------


def shown(seen: Seen) -> list[int]:
    """Numbers of the rows that are shown, in their order."""
    ids = seen.page.locator("#rows details:not([hidden])").evaluate_all("rows => rows.map((row) => row.id)")
    return [int(name.removeprefix("row-")) for name in ids]


def quantity(row: Any, name: str) -> float:
    return row.line.trained_tokens if name == "tokens" else getattr(row, name)


def focused(seen: Seen) -> str:
    return seen.page.evaluate("document.activeElement.textContent")


def tab_to(seen: Seen, condition: str) -> bool:
    """Press tab until `condition` holds."""
    for _ in range(150):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate(condition):
            return True
    return False

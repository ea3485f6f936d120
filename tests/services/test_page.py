"""The page in a real browser: what a reader sees, hears, types and takes away."""

import csv
import io
import itertools
import json
import math
import re
from contextlib import ExitStack

import pytest
from pydantic import SecretStr

from services import notes, planning, runs
from services.api import events
from services.api.feed import Feed
from services.building import build_kernel
from services.compiler.jobs import check_kernel
from services.experiments import FIGURES, baseline
from services.fleet import Fleet
from services.messages import KernelSpec, RunRequest
from services.queue import standings
from services.records import append, record_path
from tests.services.browser import CHANGED, browser, lacking, loads
from tests.services.fake import spec
from tests.services.made_up import bad, timed
from tests.services.served import await_, served

pytestmark = pytest.mark.skipif(lacking() is not None, reason=lacking() or "")

VIEWS = ("runs", "queue", "cache", "figures", "results")
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
EVIL = "<img src=x onerror='window.evil=1'>"
TIMES = "\N{MULTIPLICATION SIGN}"
TOKEN = "open sesame"
RECORDED = RunRequest(figure=9, mode="recorded", dtypes=("u4",))
EMPTY = (
    ("runs", "No run was begun here yet."),
    ("queue", "Nothing waits to be compiled or checked"),
    ("queue", "Nobody works on this queue, and nothing waits."),
    ("cache", "The cache is empty."),
    (f"cache/{'0' * 64}", "There is no kernel 000000000000 in the store."),
    ("figures/9", "Figure 9 has no records yet."),
    ("figures/11", "there is no runner of these here"),
    ("results", "There are no records yet."),
)


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


class Shown:
    """Pages of one API; what went wrong in them, and which addresses they asked."""

    def __init__(self, chromium, fleet, stack):
        self.stack, self.chromium, self.fleet = stack, chromium, fleet
        self.wrong, self.asked, self.expected = [], set(), set()
        self.serve(fleet)

    def serve(self, fleet):
        self.address, self.listened = self.stack.enter_context(served(fleet))

    def open(self, view="", **options):
        context = self.chromium.new_context(**{"reduced_motion": "reduce"} | options)
        self.stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", self._hear)
        page.on("request", lambda request: self.asked.add(request.url))
        await_(lambda: loads(page, f"{self.address}/#{view}"))
        return page

    def _hear(self, message):
        known = any(word in message.text for word in (*self.expected, CHANGED))
        if message.type in ("error", "warning") and not known:
            self.wrong.append(message.text)


@pytest.fixture
def shown(chromium, fleet):
    """What opens pages; in the end nothing went wrong in them, and they asked nobody else."""
    with ExitStack() as stack:
        one = Shown(chromium, fleet, stack)
        yield one
        assert one.wrong == []
        own = (f"{one.address}/", f"blob:{one.address}/")
        assert [address for address in one.asked if not address.startswith(own)] == []


def measured(fleet):
    """Records of some cells of figure 9: two that are good, one that failed."""
    cells = [cell for cell in FIGURES[9].cells if cell.workload.m == 1][:15]
    u8 = next(c for c in cells if c.executor == "tilus" and c.workload.b_dtype == "uint8")
    u1 = next(c for c in cells if c.executor == "tilus" and c.workload.b_dtype == "uint1")
    samples = (0.099, 0.1, 0.101, 0.12)
    good = timed(u8, 0.1).model_copy(
        update={"samples_ms": samples, "p10_ms": 0.099, "p90_ms": 0.101, "relative_error": 3e-4}
    )
    for one in (timed(baseline(u8), 0.25), good, bad(timed(u1, 0.1), "failed", f"=1+1 {EVIL}")):
        append(record_path(fleet.settings.recorded, "fixture-gpu", 9), one)


def furnished(fleet):
    """A fleet in which every view has something to show."""
    measured(fleet)
    build_kernel(spec(n=1), fleet.store, fleet.executors, "abc")
    check_kernel(spec(n=1), fleet.store, fleet.executors, "abc")
    plan = planning.plan(RECORDED, fleet)
    runs.start(plan, fleet)
    return plan


def until(page, holds):
    """Wait until an expression of the page is true; playwright's own way would need its eval."""
    await_(lambda: page.evaluate(holds) or page.wait_for_timeout(20))


def settled(page):
    page.wait_for_selector("#connection[data-state=live]")
    until(
        page,
        "!document.querySelector('[aria-busy]') && !/(Loading|Waiting for)/.test("
        "document.querySelector('section:not([hidden])').innerText)",
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_view_fits_and_can_be_read_by_everybody(shown, fleet, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    furnished(fleet)
    # the tool puts itself into the page, which the page's policy forbids
    page = shown.open(
        viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True
    )

    def breaks_no_rule(view):
        found = Axe().run(page)
        assert found.violations_count == 0, f"{view}: {found.generate_report()}"

    for view in (*VIEWS, f"cache/{spec(n=1).key()}"):
        page.goto(f"{shown.address}/#{view}")
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.locator("h1:visible").count() == 1
        breaks_no_rule(view)
    page.goto(f"{shown.address}/#figures/9")
    page.get_by_role("button", name=re.compile("u8, tilus: 2.50 times")).click()
    page.get_by_role("dialog").wait_for()
    breaks_no_rule("dialog")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, re.findall(r"\d+", paper)))
    assert shade > 600 if scheme == "light" else shade < 150


def test_what_is_empty_says_so(shown):
    page = shown.open()
    for view, words in EMPTY:
        page.goto(f"{shown.address}/#{view}")
        page.locator("section:visible").get_by_text(words).first.wait_for()


def test_what_loads_says_so_and_what_fails_says_why_and_can_be_tried_again(shown, fleet):
    measured(fleet)
    shown.expected = {"Failed to load resource"}
    page = shown.open()
    held = []
    page.route("**/v1/figures/9*", lambda route: held.append(route))
    page.goto(f"{shown.address}/#figures/9")
    page.wait_for_selector("text=Loading figure 9.")
    await_(lambda: page.wait_for_timeout(20) or held)
    held.pop().fulfill(status=503, json={"detail": "the disk is on holiday"})
    page.wait_for_selector("text=Could not load figure 9: the disk is on holiday")
    page.unroute("**/v1/figures/9*")
    page.route("**/v1/figures/9*", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("text=Could not load figure 9: the API does not answer.")
    page.unroute("**/v1/figures/9*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".bars .row")


def test_a_run_is_seen_as_it_goes(shown, fleet):
    page = shown.open("runs")
    page.wait_for_selector("text=No run was begun here yet.")
    fleet.settings.results.mkdir()
    (fleet.settings.results / "figure9.svg").write_text("<svg/>")
    plan = furnished(fleet)
    card = page.get_by_role("article", name="Run of figure 9")
    card.get_by_text("at work").wait_for()
    assert card.get_by_role("link").count() == 0
    compiles = [task for task in plan.tasks if task.kind == "compile"]
    done = notes.Note(queue="compile", function="f", batch="b", state="done")
    for number, task in enumerate(compiles, 1):
        build_kernel(KernelSpec.model_validate(task.message), fleet.store, fleet.executors, "abc")
        notes.end(fleet.connection, task.id, done, 0.1)
        noun = "kernel" if len(compiles) == 1 else "kernels"
        card.get_by_text(f"{number} of {len(compiles)} {noun} compiled").wait_for()
    bar = card.get_by_role("progressbar", name=re.compile("compiled"))
    assert bar.get_attribute("value") == bar.get_attribute("max") == str(len(compiles))
    check = next(task for task in plan.tasks if task.kind == "check")
    failed = {"state": "failed", "cause": "kernel", "reason": f"it is wrong {EVIL}"}
    notes.end(fleet.connection, check.id, done.model_copy(update=failed), 0.1)
    card.get_by_text(f"it is wrong {EVIL}").wait_for()
    card.get_by_role("button", name="Take back what waits").click()
    card.get_by_text("finished, 1 failure").wait_for()
    assert card.get_by_role("link").all_inner_texts() == ["figure9.svg"]
    assert page.evaluate("window.evil") is None


def test_a_listener_that_is_cut_off_comes_back_to_where_it_was(shown, fleet, monkeypatch):
    async def once(self, number):
        await self._refresh()
        for event in self.since(number):
            yield event

    monkeypatch.setattr(events, "RETRY_MILLISECONDS", 100)
    monkeypatch.setattr(Feed, "follow", once)
    page = shown.open("runs")
    await_(lambda: page.wait_for_timeout(50) or len(shown.listened) >= 3)
    first, second, third = shown.listened[:3]
    assert first == "" and re.fullmatch("[0-9a-f]{8}-1", second) and second == third
    furnished(fleet)
    page.get_by_role("article", name="Run of figure 9").wait_for()
    assert page.locator(".run").count() == 1


def test_an_api_that_is_gone_is_missed_and_found_again(chromium, fleet, monkeypatch):
    monkeypatch.setattr(events, "RETRY_MILLISECONDS", 100)
    with ExitStack() as stack:
        with served(fleet) as (address, _):
            page = chromium.new_page()
            stack.callback(page.close)
            page.goto(address)
            page.wait_for_selector("#connection >> text=Live.")
        page.wait_for_selector("#connection >> text=The API does not answer. Trying again.")
        stack.enter_context(served(fleet, int(address.rpartition(":")[2])))
        page.wait_for_selector("#connection >> text=Live.")


def test_a_page_too_many_is_told(shown, monkeypatch):
    monkeypatch.setattr(events, "LISTENERS", 0)
    shown.expected = {"503"}
    page = shown.open("runs")
    page.wait_for_selector("text=The API has no place for one more listener.")


def test_a_change_asks_for_the_token_and_the_tab_alone_keeps_it(shown, fleet):
    settings = fleet.settings.model_copy(update={"token": SecretStr(TOKEN)})
    shown.serve(Fleet(settings, fleet.store, fleet.connection, fleet.executors))
    shown.expected = {"401"}
    page = shown.open("runs")
    kept = "[Object.values(sessionStorage), localStorage.length, document.cookie]"
    dialog = page.get_by_role("dialog", name="This needs the token")
    begin = page.get_by_role("button", name="Draw it from records")
    begin.click()
    dialog.get_by_role("button", name="Leave it").click()
    page.get_by_text("Could not begin figure 9: nothing was changed").wait_for()
    begin.click()
    dialog.get_by_label("Token").fill("open")
    page.keyboard.press("Enter")
    dialog.get_by_text("The API did not take this token.").wait_for()
    assert dialog.get_by_label("Token").input_value() == ""
    assert page.evaluate(kept) == [[], 0, ""]
    dialog.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_text("Figure 9 has begun.").wait_for()
    card = page.get_by_role("article", name="Run of figure 9")
    card.get_by_role("button", name="Take back what waits").click()
    card.get_by_text("What waited was taken back").wait_for()
    assert page.evaluate(kept) == [[TOKEN], 0, ""]
    assert TOKEN not in page.content() and TOKEN not in "".join(shown.asked)
    page.get_by_role("button", name="Forget the token").click()
    assert page.evaluate(kept) == [[], 0, ""]


def test_a_bar_tells_its_record_to_pointer_and_keys(shown, fleet):
    measured(fleet)
    page = shown.open("figures/9", viewport={"width": 1280, "height": 900})
    bar = page.get_by_role("button", name="u8, tilus: 2.50 times the speed of f16, 100.0 µs")
    tip = page.get_by_role("tooltip")
    bar.hover()
    words = tip.inner_text()
    for each in (
        "u8, tilus",
        f"2.50{TIMES}",
        f"1.25{TIMES}",
        "3.0e-4",
        "ffffffffffff",
        "4 samples",
    ):
        assert each in words
    assert tip.locator("circle").count() == 4
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    page.locator(".row").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert bar.evaluate("row => row === document.activeElement")
    assert tip.inner_text() == words
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.panel') !== null")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="u8, tilus")
    dialog.get_by_text("groups of 128, with zero points").wait_for()
    for each in ("Fixture GPU", "1.2.3", "80.0 µs"):
        assert dialog.get_by_text(each).first.is_visible()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert bar.evaluate("row => row === document.activeElement")


def test_bars_are_as_long_as_they_are_fast(shown, fleet):
    measured(fleet)
    page = shown.open("figures/9", viewport={"width": 1280, "height": 900})
    page.wait_for_selector(".bar")
    panel = page.locator(".panel").first
    widths = panel.locator(".bar").evaluate_all("all => all.map(one => one.style.width)")
    base, fast = (float(width.rstrip("%")) for width in widths)
    # the scale begins at half of f16
    assert fast / base == pytest.approx(1 + math.log2(2.5), rel=1e-3)


def test_results_are_filtered_sorted_and_taken_away(shown, fleet):
    measured(fleet)
    page = shown.open("results")
    count = page.locator("#results-count")
    page.wait_for_selector("text=3 results of 3.")
    by = page.get_by_role("columnheader", name=f"{TIMES} f16")
    by.get_by_role("button").click()
    assert by.get_attribute("aria-sort") == "ascending"
    weights = page.locator("tbody th")
    assert weights.all_inner_texts() == ["f16", "u8", "u1"]
    page.keyboard.press("Enter")
    assert by.get_attribute("aria-sort") == "descending"
    assert weights.all_inner_texts() == ["u8", "f16", "u1"]
    page.get_by_label("Filter").fill("TILUS fixture")
    assert count.inner_text() == "2 results of 3."
    with page.expect_download() as waited:
        page.get_by_role("button", name="Download these as CSV").click()
    assert waited.value.suggested_filename == "tilus-results.csv"
    text = waited.value.path().read_text()
    good, failed = csv.DictReader(io.StringIO(text))
    assert (good["weight"], float(good["latency_ms"]), float(good["speedup"])) == ("u8", 0.1, 2.5)
    assert failed["status"] == "failed" and failed["reason"] == f"'=1+1 {EVIL}"
    assert good["commit"] == "f" * 40
    page.get_by_label("Status").select_option("failed")
    assert count.inner_text() == "1 result of 3."
    page.get_by_label("Filter").fill("nothing has this")
    page.wait_for_selector("text=No result is as the filter asks")
    page.get_by_label("Filter").fill("")
    page.get_by_role("button", name="u1").click()
    page.get_by_role("dialog").get_by_text(EVIL).first.wait_for()
    assert page.evaluate("window.evil") is None and page.locator("img").count() == 0


def test_the_cache_leads_from_a_spec_to_its_source(shown, fleet):
    for n in range(30):
        build_kernel(spec(n=n, b_dtype=EVIL, said=EVIL), fleet.store, fleet.executors, "abc")
    page = shown.open("cache")
    rows = page.locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == 25
    page.get_by_role("button", name="Show more").click()
    until(page, "document.querySelectorAll('tbody tr').length === 30")
    assert page.get_by_role("button", name="Show more").count() == 0
    page.get_by_label("Find").fill("n=7")
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('tbody tr').length === 1")
    key = spec(n=7, b_dtype=EVIL, said=EVIL).key()
    page.get_by_role("link", name=key[:12]).click()
    page.get_by_text(key, exact=True).wait_for()
    page.get_by_role("button", name="Source").click()
    page.locator("pre", has_text="// fake").wait_for()
    page.get_by_role("button", name="Log").click()
    page.locator("pre", has_text=EVIL).wait_for()
    shown.expected = {"501"}
    page.get_by_role("button", name="SASS").click()
    page.get_by_role("alert").wait_for()
    with page.expect_download() as waited:
        page.get_by_role("link", name="Download the cubin").click()
    assert json.loads(waited.value.path().read_bytes())["parameters"]["n"] == 7
    assert page.evaluate("window.evil") is None and page.locator("img").count() == 0


def test_waiting_work_is_listed_and_taken_back(shown, fleet):
    plan = furnished(fleet)
    page = shown.open("queue")
    waits = sum(task.kind in ("compile", "check") for task in plan.tasks)
    page.get_by_role("button", name="Take back").first.wait_for()
    assert page.get_by_role("button", name="Take back").count() == waits
    page.get_by_text("Nobody works on this queue: start a worker.").first.wait_for()
    page.get_by_role("button", name=f"Take back {plan.tasks[0].id}").click()
    until(page, f"document.querySelectorAll('[data-job]').length === {waits - 1}")
    [standing] = standings(fleet.queue("compile"), [plan.tasks[0].id])
    assert standing.note.state == "cancelled"


def test_views_are_reached_by_keys_and_by_address(shown):
    page = shown.open()
    page.wait_for_selector("#connection[data-state=live]")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for view, link in itertools.product(VIEWS, [page.get_by_role("navigation")]):
        one = link.locator(f"[href='#{view}']")
        one.focus()
        page.keyboard.press("Enter")
        until(page, f"document.activeElement.id === '{view}-title'")
        assert one.get_attribute("aria-current") == "page"
        assert page.title().endswith("Tilus fleet") and page.locator("section:visible").count() == 1
    page.go_back()
    until(page, "document.activeElement.id === 'figures-title'")


def test_text_never_becomes_html(shown):
    shown.expected = {"TrustedHTML", "Content Security Policy", "Refused"}
    page = shown.open()
    for sink in ("document.body.innerHTML = '<b>x</b>'", "document.write('x')"):
        said = page.evaluate(
            f"(() => {{ try {{ {sink}; return 'done' }} catch (error) {{ return error.name }} }})()"
        )
        assert said == "TypeError", sink
    said = page.evaluate("""new Promise(resolve => {
        const script = document.createElement('img');
        script.onerror = () => resolve('refused');
        script.onload = () => resolve('loaded');
        script.src = 'http://127.0.0.1:9/elsewhere.png';
    })""")
    assert said == "refused"
    shown.asked = {address for address in shown.asked if "elsewhere" not in address}

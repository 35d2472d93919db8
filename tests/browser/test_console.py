"""The console in Chromium: stories told by pages alone, every page accessible on a phone, nothing runs but ours."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, expect

from examples.loan.activities import Application
from examples.loan.entities import Loan, Rules
from perdure.entities.errors import PerdureError
from perdure.entities.present import present
from perdure.entities.store.rows import HostRow
from perdure.entities.testing import LocalCluster

from .site import IMAGE, SCRIPT, Claim, Gate, Site, Walk, answering, failures

pytestmark = [pytest.mark.browser, pytest.mark.slow]

expect.set_options(timeout=20_000)
KEY = "k" * 32
SETTLE_MS = 300
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RUN_AXE = "async () => (await axe.run()).violations.map((v) => [v.id, ...v.nodes.map((n) => n.html.slice(0, 160))])"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site().served() as running:
        running.run(furnish(running.cluster))
        yield running


async def furnish(cluster: LocalCluster) -> None:
    """One of everything that the pages show."""
    ada = Application(user="ada", email="ada@example.org", amount=9_000, purpose="an engine")
    await Loan.ref("loan-1").process.start(ada, {"identity": "scan"}, Rules(remind_every=timedelta(hours=24)))
    await Gate.ref("west").run.start("West End")
    await Gate.ref("a/b ü").shut(IMAGE)
    await Walk.ref("sunday").go.start(["west", "a/b ü"])
    await Claim.ref("c-1").settle.start(700)
    await cluster.drained()


@pytest.fixture
def context(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """Whatever a page complains about fails the test."""
    context = browser.new_context(base_url=f"{site.url}/console/", viewport={"width": 1280, "height": 860})
    context.set_default_timeout(15_000)
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("dialog", lambda dialog: complaints.append(f"a dialog of the browser: {dialog.message}"))
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def open_page(page: Page, where: str, heading: str) -> None:
    page.goto(f"#/{where}")
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)


def try_it(page: Page, address: str, member: str) -> Locator:
    """The form of a member; nothing but this page is used."""
    open_page(page, f"entity/{address}/try", address)
    page.get_by_role("link", name=member, exact=True).click()
    expect(page.get_by_role("heading", level=2, name=member)).to_be_visible()
    return page.locator(".card form")


def give_reason(page: Page, verb: str, reason: str = "seen to") -> None:
    box = page.get_by_role("dialog")
    box.get_by_label("Reason").fill(reason)
    box.get_by_label("Your name").fill("ann")
    box.get_by_role("button", name=verb, exact=True).click()
    expect(box).to_be_hidden()


# --- Must show --------------------------------------------------------------------------------------------------------


def test_a_loan_from_submission_to_approval_by_pages_alone(page: Page, shots: Path) -> None:
    form = try_it(page, "Loan/loan-7", "process")
    for label, value in (("user", "grace"), ("email", "g@example.org"), ("amount", "9000"), ("purpose", "a compiler")):
        form.get_by_label(label, exact=True).fill(value)
    form.get_by_label("documents").fill('{"identity": "scan"}')
    form.get_by_label("remind_every").fill("PT1S")  # a day of this story
    form.get_by_label("reminders").fill("1000")  # on a slow machine there are more days until the papers are there
    form.get_by_role("button", name="Start").click()
    expect(page.get_by_text("Accepted after")).to_be_visible()

    # it waits
    open_page(page, "entities?type=Loan&prefix=loan-7", "Entities")
    row = page.get_by_role("row", name="Loan/loan-7")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("condition")
    row.get_by_role("link").click()
    # the reminder of each day
    page.get_by_role("link", name="Inbox").click()
    expect(page.get_by_role("region", name="Reminders and timers")).to_contain_text("timer")
    page.get_by_role("link", name="Timeline").click()
    mailed = page.locator("tr", has_text="completed").filter(has_text="send_mail")
    expect(mailed.nth(2)).to_be_visible()
    open_page(page, "entity/Mail/g%40example.org/state", "Mail/g@example.org")
    expect(page.get_by_role("region", name="State")).to_contain_text("Please send: income proof, bank statement.")

    for paper in ("income proof", "bank statement"):
        form = try_it(page, "Loan/loan-7", "upload")
        form.get_by_label("paper").select_option(paper)
        form.get_by_label("content").fill("scan")
        form.get_by_role("button", name="Call").click()
        expect(page.get_by_text("Answered after")).to_be_visible()

    # a person decides
    page.get_by_role("link", name="Workflows").click()
    page.get_by_role("link", name="Send to decision").click()
    form = page.locator(".card form")
    form.get_by_label("is_approved").select_option("true")
    form.get_by_label("by", exact=True).fill("ann")
    form.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Accepted after")).to_be_visible()

    page.get_by_role("link", name="Timeline").click()
    ended = page.locator("tbody tr", has_text="ended").or_(page.locator("tbody tr .badge.good")).first
    expect(ended).to_be_visible()
    picture = page.get_by_role("img", name="Timeline of Loan/loan-7")
    for lane in ("messages", "process", "send_mail", "check_fraud", "decision", "timer"):
        expect(picture.get_by_text(lane, exact=True)).to_be_visible()
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=shots / "console-timeline.png")
    page.get_by_role("link", name="State", exact=True).click()
    expect(page.get_by_role("region", name="State")).to_contain_text('"Approved"')
    expect(page.get_by_role("region", name="Changes")).to_contain_text("/status")


def test_a_wedged_workflow_is_first_on_home_and_retry_now_completes_it(page: Page, site: Site, shots: Path) -> None:
    site.run(wedge("north", "North Field"))
    open_page(page, "", "Home")
    wedged = page.locator(".attention > li", has_text="Gate/north")
    expect(wedged).to_contain_text("wedged")
    expect(wedged).to_contain_text("the gate of North Field does not answer")
    expect(wedged).to_contain_text("5 attempts")
    expect(page.locator(".attention > li").first).to_contain_text("wedged")
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=shots / "console-home.png")
    answering.add("North Field")  # the fix
    wedged.get_by_role("button", name="Retry now").click()
    give_reason(page, "Retry now", "the controller is back")
    expect(wedged).to_be_hidden()
    assert site.run(Gate.ref("north").run.result(timeout=5)) == "open"
    assert failures["North Field"] == 5
    open_page(page, "audit", "Audit")
    row = page.get_by_role("row", name="Gate/north")
    for text in ("ann", "retry", "the controller is back"):
        expect(row).to_contain_text(text)


def test_with_every_host_dead_all_is_shown_and_said_so(browser: Browser, site: Site) -> None:
    with Site().served(beside=site) as dying:
        dying.run(furnish(dying.cluster))
        dying.run(wedge("dead", "Dead End"))
        dying.run(dead(dying.cluster))
        page = browser.new_page(base_url=f"{dying.url}/console/")
        open_page(page, "", "Home")
        expect(page.get_by_text("No host is running.")).to_be_visible()
        expect(page.locator(".attention")).to_contain_text("the gate of Dead End does not answer")
        open_page(page, "entities", "Entities")
        expect(page.get_by_role("link", name="Loan/loan-1")).to_be_visible()
        open_page(page, "entity/Gate/dead/workflows", "Gate/dead")
        expect(page.locator(".operation")).to_contain_text("open_gate")
        seen = {"state": '"opening"', "timeline": "scheduled", "pending": "Inbox", "history": "started"}
        for tab, text in seen.items():
            open_page(page, f"entity/Gate/dead/{tab}", "Gate/dead")
            expect(page.locator("main")).to_contain_text(text)
        open_page(page, "worklist", "Work list")
        expect(page.get_by_role("heading", name="Claim of 700")).to_be_visible()
        page.close()


async def wedge(key: str, place: str) -> None:
    """A run whose activity has failed too often, as far as is committed."""
    await Gate.ref(key).run.start(place)
    while not (found := (await present(Gate.ref(key))).runs[0].operations) or found[0].attempts < 5:
        await asyncio.sleep(0.02)


async def dead(cluster: LocalCluster) -> None:
    while cluster.engines:
        await cluster.kill().stop()


# --- What people do ---------------------------------------------------------------------------------------------------


def test_the_last_error_of_a_retrying_activity_tells_where_it_was_raised(page: Page, site: Site) -> None:
    site.run(wedge("traced", "Traced"))
    open_page(page, "entity/Gate/traced/workflows", "Gate/traced")
    operation = page.locator(".operation")
    expect(operation.locator("pre")).to_be_hidden()
    operation.get_by_text("Where it was raised").click()
    expect(operation.locator("pre")).to_contain_text("site.py")
    expect(operation.locator("pre")).to_contain_text("in open_gate")


def test_an_activity_that_failed_for_good_tells_where_it_was_raised(page: Page, site: Site) -> None:
    site.run(Gate.ref("fused").mend.start())
    open_page(page, "entity/Gate/fused/workflows", "Gate/fused")
    run = page.get_by_role("region", name="Workflow mend")
    expect(run).to_contain_text("Failed for good")
    expect(run).to_contain_text("there is no fuse for fused")
    run.get_by_text("Where it was raised").first.click()
    expect(run.locator("pre").first).to_contain_text("in change_fuse")
    open_page(page, "entity/Gate/fused/timeline", "Gate/fused")
    page.get_by_text("Where it was raised").click()
    expect(page.locator("pre")).to_contain_text("in change_fuse")


def test_the_outbox_tells_what_became_of_each_message(page: Page) -> None:
    open_page(page, "entity/Walk/sunday/pending", "Walk/sunday")
    row = page.get_by_role("region", name="Outbox").get_by_role("row", name="Gate/west")
    expect(row).to_contain_text("shut")
    expect(row).to_contain_text("applied")
    row.get_by_role("link", name="version").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Gate/west")


def test_a_downloaded_history_is_replayed(page: Page, tmp_path: Path) -> None:
    open_page(page, "entity/Walk/sunday/history", "Walk/sunday")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download everything").click()
    path = tmp_path / "walk.json"
    download.value.save_as(path)
    section = page.get_by_role("region", name="Replay a history")
    chooser = section.get_by_label("History of a Walk")
    chooser.set_input_files(path)
    expect(section.get_by_role("status")).to_contain_text("Walk/sunday, 1 run, 1 of them fit this code")
    expect(section.get_by_role("row", name="go")).to_contain_text("fits")
    text = path.read_text()
    assert "Gate.shut" in text
    path.write_text(text.replace("Gate.shut", "Gate.open"))
    chooser.set_input_files(path)
    row = section.get_by_role("row", name="go")
    expect(row).to_contain_text("differs")
    expect(row).to_contain_text("#0 call Gate.open")
    path.write_text("no JSON")
    chooser.set_input_files(path)
    expect(section.get_by_role("alert")).to_contain_text("not JSON")


def test_state_is_edited_with_a_reason_and_its_versions_are_compared(page: Page, site: Site) -> None:
    site.run(Gate.ref("edited").shut("eve"))
    open_page(page, "entity/Gate/edited/state", "Gate/edited")
    page.get_by_role("button", name="Edit…").click()
    box = page.get_by_role("dialog")
    box.get_by_label("opened").fill("x")
    box.get_by_label("Reason").fill("by hand")
    box.get_by_role("button", name="Save").click()
    expect(box.get_by_role("alert")).to_contain_text("opened is not a number")
    box.get_by_label("opened").fill("7")
    box.get_by_role("button", name="Save").click()
    expect(box).to_be_hidden()
    changes = page.get_by_role("region", name="Changes")
    expect(changes).to_contain_text("/opened")
    expect(changes).to_contain_text("\N{MINUS SIGN} 0")
    expect(changes).to_contain_text("+ 7")
    page.get_by_role("button", name="Earlier version").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("opened: 0")


def test_an_edit_of_a_state_that_has_moved_on_is_refused(page: Page, site: Site) -> None:
    site.run(Gate.ref("moving").shut("eve"))
    open_page(page, "entity/Gate/moving/state", "Gate/moving")
    page.get_by_role("button", name="Edit…").click()
    box = page.get_by_role("dialog")
    box.get_by_label("opened").fill("7")
    box.get_by_label("Reason").fill("by hand")
    site.run(Gate.ref("moving").shut("eve"))
    box.get_by_role("button", name="Save").click()
    expect(box.get_by_role("alert")).to_contain_text("version")
    box.get_by_role("button", name="Back").click()
    expect(page.get_by_role("region", name="State")).to_contain_text("opened: 0")


def test_a_host_is_drained_with_a_reason(page: Page, site: Site) -> None:
    store = site.cluster.store
    site.run(store.register(HostRow("h-leaving", "a", "node-7", 1, "active", 0), lease_s=3_600))
    open_page(page, "hosts", "Hosts")
    row = page.get_by_role("row", name="h-leaving")
    row.get_by_role("button", name="Drain").click()
    give_reason(page, "Drain", "a new disk")
    expect(row).to_contain_text("draining")
    expect(row.get_by_role("button", name="Drain")).to_have_count(0)
    open_page(page, "audit?action=drain", "Audit")
    done = page.get_by_role("row", name="h-leaving")
    for text in ("ann", "drain", "a new disk"):
        expect(done).to_contain_text(text)
    done.get_by_role("link").click()
    expect(page.get_by_role("heading", name="Hosts")).to_be_visible()
    site.run(store.retire("h-leaving"))


def test_a_run_is_cancelled_and_run_again(page: Page, site: Site) -> None:
    site.run(Claim.ref("c-3").settle.start(300))
    open_page(page, "entity/Claim/c-3/workflows", "Claim/c-3")
    run = page.get_by_role("region", name="Workflow settle")
    run.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(run).to_contain_text("cancelled")
    run.get_by_role("button", name="Rerun").click()
    give_reason(page, "Rerun", "too early")
    expect(run.get_by_role("link", name="Decide on the work list")).to_be_visible()
    run.get_by_role("button", name="Terminate").click()
    give_reason(page, "Terminate", "a test")
    expect(run).to_contain_text("terminated")


def test_a_bulk_action_shows_what_it_hits_before_it_does(page: Page, site: Site) -> None:
    for number in range(3):
        site.run(Gate.ref(f"bulk-{number}").run.start(f"Bulk {number}"))
    open_page(page, "entities?type=Gate&prefix=bulk-", "Entities")
    expect(page.get_by_role("row", name="Gate/bulk-2")).to_be_visible()
    page.get_by_role("checkbox", name="Select all shown").check()
    page.get_by_role("checkbox", name="Select Gate/bulk-1").uncheck()
    page.get_by_role("button", name="Pause", exact=True).click()
    hit = page.get_by_role("dialog").get_by_role("list", name="What this hits")
    expect(hit).to_have_text("Gate/bulk-0.runGate/bulk-2.run")
    give_reason(page, "Pause 2", "works")
    expect(page.get_by_role("row", name="Gate/bulk-0")).to_contain_text("paused")
    expect(page.get_by_role("row", name="Gate/bulk-1")).to_contain_text("running")
    expect(page.get_by_role("row", name="Gate/bulk-2")).to_contain_text("ann: works")


def test_entities_are_found_by_a_field_of_their_state(page: Page, site: Site) -> None:
    site.run(Gate.ref("found").shut("eve"))
    site.run(Gate.ref("other").run.start("Elsewhere"))
    open_page(page, "entities?type=Gate", "Entities")
    expect(page.get_by_role("row", name="Gate/other")).to_be_visible()
    page.get_by_label("Field of the state").select_option("status")
    page.get_by_label("Value").fill("shut")
    page.get_by_label("Value").press("Enter")
    expect(page.get_by_role("row", name="Gate/found")).to_contain_text('"status":"shut"')
    expect(page.get_by_role("row", name="Gate/other")).to_be_hidden()


def test_a_decision_is_taken_from_the_work_list(page: Page, site: Site, shots: Path) -> None:
    site.run(Claim.ref("c-2").settle.start(900))
    open_page(page, "entity/Claim/c-2/workflows", "Claim/c-2")
    page.get_by_role("link", name="Decide on the work list").click()
    claim = page.get_by_role("region", name="Claim of 900")
    expect(claim).to_contain_text("claims")
    claim.locator("summary", has_text="Decide").click()
    claim.get_by_label("is_approved").select_option("true")
    page.screenshot(path=shots / "console-worklist.png")
    claim.get_by_role("button", name="Decide").click()
    expect(claim).to_be_hidden()
    assert site.run(Claim.ref("c-2").settle.result(timeout=5)) == "paid"


def test_a_dead_letter_is_sent_again(page: Page, site: Site) -> None:
    site.run(give_up("inspected"))
    open_page(page, "letters", "Dead letters")
    row = page.get_by_role("row", name="Gate/inspected")
    expect(row).to_contain_text("no inspector")
    row.get_by_text("Where it was raised").click()
    expect(row.locator("pre")).to_contain_text("in Gate.inspect")
    answering.add("inspector")
    row.get_by_role("button", name="Send again").click()
    give_reason(page, "Send again")
    expect(row).to_be_hidden()
    open_page(page, "entity/Gate/inspected/state", "Gate/inspected")
    expect(page.get_by_role("region", name="State")).to_contain_text('note: "inspected"')


async def give_up(key: str) -> None:
    answering.discard("inspector")
    try:
        await Gate.ref(key).inspect.send()
    except PerdureError:
        return


def test_calls_between_entities_are_a_tree(page: Page) -> None:
    open_page(page, "entity/Walk/sunday/calls", "Walk/sunday")
    tree = page.get_by_role("region", name="Tree of calls")
    expect(tree.get_by_role("link", name="Gate/west")).to_be_visible()
    expect(tree.get_by_role("link", name="Gate/a/b ü")).to_be_visible()
    tree.get_by_role("link", name="Gate/west").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Gate/west")


NO_POLLS = (
    "{ const timer = setTimeout; window.setTimeout = (f, ms, ...more) => (ms < 1000 ? timer(f, ms, ...more) : 0); }"
)
HIDE = """(isHidden) => {
    Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def liveness(page: Page) -> Locator:
    return page.locator(".liveness[aria-live=polite]")


def test_the_page_of_an_entity_follows_its_stream(page: Page, site: Site) -> None:
    site.run(Gate.ref("live").shut("eve"))
    page.add_init_script(NO_POLLS)
    open_page(page, "entity/Gate/live/timeline", "Gate/live")
    expect(liveness(page)).to_have_text("Live")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1)
    site.run(Gate.ref("live").shut("adam"))
    expect(rows).to_have_count(2)


def test_without_a_stream_it_looks_now_and_then_until_there_is_one(page: Page, site: Site) -> None:
    site.run(Gate.ref("polled").shut("eve"))
    page.route("**/-/events", lambda route: route.fulfill(status=429, json={"code": "too_many_requests"}))
    open_page(page, "entity/Gate/polled/timeline", "Gate/polled")
    expect(liveness(page)).to_have_text("Looks every 1.5 s")
    site.run(Gate.ref("polled").shut("adam"))
    expect(page.locator("tbody tr")).to_have_count(2)
    page.unroute("**/-/events")
    expect(liveness(page)).to_have_text("Live")


def test_a_gateway_that_is_away_is_told_and_found_again(page: Page, site: Site) -> None:
    site.run(Gate.ref("away").shut("eve"))
    open_page(page, "entity/Gate/away/timeline", "Gate/away")
    expect(liveness(page)).to_have_text("Live")
    page.route("**/console/api/**", lambda route: route.abort())
    expect(liveness(page)).to_have_text("Not reachable")
    expect(page.locator("main").get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/console/api/**")
    expect(liveness(page)).to_have_text("Live")
    expect(page.locator("main").get_by_role("alert")).to_be_hidden()


def test_the_stream_is_left_with_the_page_and_while_the_tab_is_hidden(page: Page, site: Site) -> None:
    site.run(Gate.ref("left").shut("eve"))

    def is_stream(request: Request) -> bool:
        return request.url.endswith("/-/events")

    open_page(page, "entity/Gate/left/timeline", "Gate/left")
    expect(liveness(page)).to_have_text("Live")
    with page.expect_event("requestfailed", is_stream):
        page.evaluate(HIDE, True)
    with page.expect_request(is_stream) as again:
        page.evaluate(HIDE, False)
    assert again.value.headers["last-event-id"] == "1"
    expect(liveness(page)).to_have_text("Live")
    with page.expect_event("requestfailed", is_stream):
        page.get_by_role("link", name="Audit").click()


# --- Who may, and what may run ----------------------------------------------------------------------------------------


def test_a_key_is_asked_for_kept_in_the_tab_and_asked_for_again(browser: Browser, site: Site) -> None:
    with Site().served(KEY, beside=site) as locked:
        page = browser.new_page(base_url=f"{locked.url}/console/")
        page.goto("#/entities")
        box = page.get_by_role("dialog")
        expect(box).to_contain_text("This gateway needs a key")
        box.get_by_label("API key or token").fill("wrong")
        box.get_by_role("button", name="Use it").click()
        expect(page.get_by_text("The key was refused.")).to_be_visible()
        page.get_by_role("dialog").get_by_label("API key or token").fill(KEY)
        page.get_by_role("dialog").get_by_role("button", name="Use it").click()
        expect(page.get_by_text("No entity fits.")).to_be_visible()
        page.reload()
        expect(page.get_by_text("No entity fits.")).to_be_visible()
        assert page.evaluate("[sessionStorage.length, document.cookie, Object.keys(localStorage)]") == [1, "", []]
        page.close()


def test_markup_in_keys_states_and_errors_is_text(page: Page, site: Site) -> None:
    site.run(wedge(SCRIPT, IMAGE))
    for where, heading in (
        ("", "Home"),
        ("entities", "Entities"),
        (f"entity/Gate/{encoded(SCRIPT)}/timeline", f"Gate/{SCRIPT}"),
        (f"entity/Gate/{encoded(SCRIPT)}/workflows", f"Gate/{SCRIPT}"),
        (f"entity/Gate/{encoded(SCRIPT)}/history", f"Gate/{SCRIPT}"),
        (f"entity/Gate/{encoded('a/b ü')}/timeline", "Gate/a/b ü"),
    ):
        open_page(page, where, heading)
        expect(page.locator("main")).to_contain_text("<img" if "a/b" in heading else "<script>")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main script, main img").count() == 0


def encoded(text: str) -> str:
    return quote(text, safe="")


# --- Everybody can use it ---------------------------------------------------------------------------------------------


def test_the_keyboard_is_enough(page: Page) -> None:
    open_page(page, "", "Home")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("g")
    page.keyboard.press("e")
    expect(page.get_by_role("heading", level=1)).to_have_text("Entities")
    expect(page.locator("main")).to_be_focused()
    expect(page.locator("[data-row]").nth(1)).to_be_visible()
    links = page.locator("[data-row] a")
    page.keyboard.press("j")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("j")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Key begins with")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next, previous row")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_label("Go to Type/key").fill("Gate/west")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Gate/west")


def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    open_page(page, "", "Home")
    button = page.get_by_role("button", name="Theme")
    expect(button).to_have_text("Theme: auto")
    button.click()
    button.click()
    page.reload()
    expect(button).to_have_text("Theme: dark")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


ENTITY = "entity/Gate/west"
PAGES = {
    "home": "",
    "entities": "entities",
    "found": "entities?type=Gate&where=status%3Dopening",
    "worklist": "worklist",
    "schedules": "schedules",
    "letters": "letters",
    "types": "types",
    "hosts": "hosts",
    "audit": "audit",
    **{tab: f"{ENTITY}/{tab}" for tab in ("timeline", "state", "workflows", "pending", "try", "history")},
    "calls": "entity/Walk/sunday/calls",
    "nobody": "entity/Gate/nobody/timeline",
}


WITH_TRACES = {"letters", "workflows"}

TOO_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter((one) => !one.closest(".scroll, .tabs, nav, .picture"))
    .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
    .map((one) => one.outerHTML.slice(0, 120)).slice(0, 5)"""


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_every_page_is_accessible_and_fits(
    context: BrowserContext, site: Site, shots: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    site.run(give_up("seen"))
    page = context.new_page()
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 860})
    found: dict[str, Any] = {}
    for name, where in PAGES.items():
        page.goto(f"#/{where}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.wait_for_load_state("networkidle")
        if name in WITH_TRACES:
            page.get_by_text("Where it was raised").first.click()
        page.evaluate(AXE)
        if violations := page.evaluate(RUN_AXE):
            found[name] = violations
        page.screenshot(path=shots / f"console-{name}-{scheme}-{width}.png")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found[f"{name} is too wide"] = page.evaluate(TOO_WIDE)
    assert found == {}

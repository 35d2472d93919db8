"""Story 1 as a person sees it: the menu and the driver's page in Chromium, against everything running."""

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.acceptance.demo import Demo, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("browser"),
]

expect.set_options(timeout=60_000)
SETTLE_MS = 500
"""Until everything that glides has arrived: for pictures only."""


def order(menu: Page, product: str) -> Locator:
    """Order it; its card."""
    menu.get_by_role("button", name=f"Order {product}").click()
    return cards(menu, product).first


def cards(menu: Page, product: str) -> Locator:
    return menu.locator("#orders > li", has=menu.get_by_role("heading", name=product))


def current_step(card: Locator) -> Locator:
    return card.locator("[aria-current=step]")


def customer(page: Page) -> str:
    return str(page.evaluate("localStorage.customer"))


def id_of(card: Locator) -> str:
    return str(card.get_attribute("data-key"))


def job(driver: Page, action: str, product: str, menu: Page) -> Locator:
    """The button of a driver for that customer's order."""
    return driver.get_by_role("button", name=f"{action}: {product} for {customer(menu)}")


def test_a_meal_is_delivered_and_rated_although_its_host_is_killed(
    menu: Page, driver: Page, demo: Demo, shots: Path
) -> None:
    card = order(menu, "Shoyu ramen")
    expect(current_step(card)).to_have_text("Paid")
    menu.screenshot(path=shots / "menu-paid.png")
    job(driver, "Pick up", "Shoyu ramen", menu).click()
    expect(job(driver, "Deliver", "Shoyu ramen", menu)).to_be_visible()
    expect(current_step(card)).to_have_text("Picked up")

    driver.get_by_role("button", name="Kill a host").click()
    expect(driver.get_by_text("(SIGKILL)")).to_be_visible()
    expect(driver.get_by_text("is gone.")).to_be_visible()
    expect(driver.get_by_text("took over")).to_be_visible()
    driver.wait_for_timeout(SETTLE_MS)
    driver.screenshot(path=shots / "driver-host-killed.png", full_page=True)
    job(driver, "Deliver", "Shoyu ramen", menu).click()

    expect(current_step(card)).to_have_text("Delivered")
    expect(card.get_by_text("How was the Shoyu ramen?")).to_be_visible()
    expect(menu.get_by_text("Your Shoyu ramen has arrived.")).to_be_visible()
    menu.screenshot(path=shots / "menu-delivered.png")
    card.get_by_role("button", name="4 stars").click()
    expect(card.get_by_text("Thank you for your ★★★★")).to_be_visible()
    expect(menu.locator("#history > li")).to_contain_text("Shoyu ramen")
    expect(menu.locator("#totals")).to_have_text("1 meal · €13.90")
    expect(driver.get_by_text("A new host")).to_be_visible()
    assert len(demo.charges(id_of(card))) == 1


def test_a_declined_card_is_explained(menu: Page, shots: Path) -> None:
    menu.get_by_text("Card ending in 0002").click()
    card = order(menu, "Cheeseburger")
    expect(card.get_by_text("nothing charged: card declined")).to_be_visible()
    expect(current_step(card)).to_have_text("Charging card")
    expect(menu.locator("#history > li")).to_contain_text("card declined")
    menu.screenshot(path=shots / "menu-declined.png")
    card.get_by_role("button", name="Clear Cheeseburger from this list").click()
    expect(menu.get_by_text("Nothing is on its way yet.")).to_be_visible()


def test_a_meal_that_nobody_picks_up_is_refunded(menu: Page, driver: Page, demo: Demo, shots: Path) -> None:
    card = order(menu, "Salmon maki")
    expect(card.get_by_text("A driver has 0:0")).to_be_visible()
    expect(job(driver, "Pick up", "Salmon maki", menu)).to_be_visible()
    expect(card.get_by_text("Your money is back: not picked up in time.")).to_be_visible()
    expect(current_step(card)).to_have_text("Refunded")
    expect(job(driver, "Pick up", "Salmon maki", menu)).to_be_hidden()
    menu.wait_for_timeout(SETTLE_MS)
    menu.screenshot(path=shots / "menu-refunded.png")
    [charge] = demo.charges(id_of(card))
    assert charge["refunded_at"] is not None


def test_an_answer_that_gets_lost_makes_no_second_order(menu: Page, demo: Demo) -> None:
    keys: list[str | None] = []

    def lose_the_first_answers(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        route.fetch()
        if len(keys) < 3:
            route.abort()
        else:
            route.continue_()

    menu.route("**/orders/*", lose_the_first_answers)
    card = order(menu, "Tacos al pastor")
    expect(current_step(card)).to_have_text("Paid")
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]
    assert cards(menu, "Tacos al pastor").count() == 1
    assert len(demo.charges(id_of(card))) == 1


def test_without_connection_the_page_says_so_and_goes_on_later(menu: Page, context: BrowserContext, demo: Demo) -> None:
    context.set_offline(True)
    expect(menu.get_by_text("We cannot reach the kitchen.")).to_be_visible()
    card = order(menu, "Berry cheesecake")
    expect(card.get_by_text("Sending your order…")).to_be_visible()
    assert demo.charges(id_of(card)) == []
    context.set_offline(False)
    expect(current_step(card)).to_have_text("Paid")
    expect(menu.get_by_text("We cannot reach the kitchen.")).to_be_hidden()
    assert len(demo.charges(id_of(card))) == 1


def test_an_order_survives_the_page(menu: Page, context: BrowserContext, demo: Demo) -> None:
    context.set_offline(True)
    unsent = id_of(order(menu, "Pizza Margherita"))
    menu.close()
    context.set_offline(False)
    page = context.new_page()
    page.goto("/")
    card = cards(page, "Pizza Margherita").first
    expect(current_step(card)).to_have_text("Paid")
    assert id_of(card) == unsent
    until(lambda: demo.charges(unsent), lambda charges: len(charges) == 1)


def test_the_driver_can_take_the_services_down_and_up(menu: Page, driver: Page) -> None:
    try:
        driver.get_by_text("are down").click()
        expect(driver.get_by_role("radio", name="are down")).to_be_checked()
        card = order(menu, "Cheeseburger")
        expect(card.get_by_text("Talking to your bank…")).to_be_visible()
    finally:
        driver.get_by_text("always answer").click()
    expect(current_step(card)).to_have_text("Paid")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 768, 360])
def test_both_pages_fit_and_every_control_has_a_name(
    menu: Page, driver: Page, shots: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    card = order(menu, "Salmon maki")
    expect(current_step(card)).to_have_text("Paid")
    expect(job(driver, "Pick up", "Salmon maki", menu)).to_be_visible()
    for page, name in ((menu, "menu"), (driver, "driver")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 860})
        page.wait_for_timeout(SETTLE_MS)
        page.screenshot(path=shots / f"{name}-{scheme}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert unnamed(page) == []
        assert page.evaluate(LOW_CONTRAST) == []


def unnamed(page: Page) -> list[str]:
    """Controls that a screen reader could not name."""
    found: list[dict[str, Any]] = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, meter")].map((element) => ({
            html: element.outerHTML,
            name: element.getAttribute("aria-label") || element.innerText || element.labels?.[0]?.innerText || "",
        }))"""
    )
    return [control["html"] for control in found if not control["name"].strip()]


LOW_CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
        .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const color = rgb(getComputedStyle(element).backgroundColor);
            if (color[3] === 255) return color;
        }
        return [255, 255, 255];
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const low = new Set();
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest("[data-is=gone]")) continue;
        const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) low.add(`${element.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`);
    }
    return [...low];
}"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG AA)."""

"""A real browser on a running demo."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.acceptance.demo import Demo

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = Path(__file__).resolve().parents[2] / "test-results" / "browser"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the session: Playwright's loop counts as running all the time, and asynchronous tests need their own."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip(f"there is no {CHROMIUM}; `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def demo(browser: Browser) -> Iterator[Demo]:
    """Reliable services and short waits, except for what a slow machine must have time for."""
    with Demo.in_temporary_directory(limits={"pick_up_s": 20, "deliver_s": 60, "rating_s": 0.5}) as running:
        yield running


@pytest.fixture
def context(browser: Browser, demo: Demo) -> Iterator[BrowserContext]:
    """A customer and a driver of their own, in one browser; whatever a page complains about fails the test."""
    context = browser.new_context(base_url=demo.url, viewport={"width": 1280, "height": 860})
    context.set_default_timeout(60_000)
    complaints: list[str] = []
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def menu(context: BrowserContext) -> Page:
    """The customer's page, with its menu loaded."""
    page = context.new_page()
    page.goto("/")
    page.get_by_role("button", name="Order Pizza Margherita").wait_for()
    return page


@pytest.fixture
def driver(context: BrowserContext) -> Page:
    """The driver's page, with the hosts loaded."""
    page = context.new_page()
    page.goto("/driver")
    page.get_by_text("shards").first.wait_for()
    return page


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where pictures go, for people to look at."""
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    return SHOTS

"""Pictures of all screens: `python -m tests.end_to_end.browser.screenshots FOLDER`.

Each screen is taken in light, in dark and narrow. `benchmarks.seed` fills the storage; the storage of an
earlier run in the same folder is used again.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright

from firelock import Firelock
from tests.end_to_end.browser import seeds
from tests.end_to_end.browser.chromium import launch
from tests.end_to_end.browser.pages import NARROW, WIDE
from tests.end_to_end.browser.screens import screens
from tests.end_to_end.browser.serving import Served

APPEARANCES = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "mobile": {"viewport": NARROW, "color_scheme": "light", "has_touch": True},
    "zoom": {"viewport": {"width": 360, "height": 225}, "color_scheme": "light"},  # 1440 x 900 at 400 %
    "forced": {"viewport": WIDE, "color_scheme": "dark", "forced_colors": "active"},
}
_TALLEST = 2_400
_SETTLED = "() => document.fonts.ready.then(() => !document.querySelector('.htmx-request'))"


@contextmanager
def dashboards(folder, jobs):
    """Yield the dashboards by the names that the screens use."""
    url = f"sqlite:///{folder / 'shop.db'}"
    if not (folder / "shop.db").exists():
        seeds.fill(url, jobs)
    with ExitStack() as stack:
        shop = stack.enter_context(closing(seeds.shop(url)))
        new = stack.enter_context(closing(Firelock("memory://")))
        down = stack.enter_context(closing(Firelock("redis://127.0.0.1:9")))
        served = {
            "shop": Served(shop, environment="staging", back_url="/"),
            "new": Served(new),
            "read_only": Served(shop, read_only=True, environment="production"),
            "refused": Served(shop, auth=lambda request: None),
            "signed-out": Served(shop),
            "down": Served(down),
        }
        for one in served.values():
            one.start()
            stack.callback(one.stop)
        yield served


def take(browser, served, screen, appearance, path):
    """Store a picture of the screen, with this appearance at the path."""
    context = browser.new_context(
        base_url=served.origin,
        timezone_id="UTC",
        locale="en-GB",
        reduced_motion="reduce",
        **APPEARANCES[appearance],
    )
    try:
        if screen.of not in {"down", "signed-out"}:
            context.add_cookies(served.cookies())
        page = context.new_page()
        page.goto(screen.address)
        page.wait_for_function(_SETTLED)
        screen.prepare(page)
        if screen.is_whole:
            height = page.evaluate("() => document.scrollingElement.scrollHeight")
            page.set_viewport_size(
                {**APPEARANCES[appearance]["viewport"], "height": min(_TALLEST, max(height, 400))}
            )
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.screenshot(path=path)
    finally:
        context.close()


def main():
    """Take the requested pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.end_to_end.browser.screenshots", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="where the pictures are put")
    parser.add_argument("--jobs", type=int, default=20_000, help="how many are seeded")
    parser.add_argument("--only", default="", metavar="TEXT", help="screens whose name has this text")
    parser.add_argument("--appearances", nargs="+", choices=APPEARANCES, default=["light", "dark", "mobile"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with dashboards(options.folder, options.jobs) as served, sync_playwright() as playwright:
        browser = launch(playwright)
        for screen in screens(served["shop"].fire):
            for appearance in options.appearances if options.only in screen.name else ():
                path = options.folder / f"{screen.name}-{appearance}.png"
                try:
                    take(browser, served[screen.of], screen, appearance, path)
                except PlaywrightError as error:
                    sys.stderr.write(f"{screen.name} {appearance}: {str(error)[:300]}\n")
        browser.close()


if __name__ == "__main__":
    main()

"""The pictures for README and documentation: `python -m tests.end_to_end.browser.pictures`.

The pictures show the dashboard of a seeded year, the job of docs/first-minute.md, and half a minute of
`firelock demo --dashboard`. They are written to docs/images as WebP, which Chromium encodes; this module
combines the frames, so no other program is needed.
"""

from __future__ import annotations

import base64
import re
import signal
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, time, timedelta
from itertools import groupby
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.seed.shop import fire as shop_app
from firelock import Firelock, JobContext
from firelock.plugins.loader import open_storage
from firelock.testing import eventually
from tests.end_to_end.browser import seeds
from tests.end_to_end.browser.chromium import launch
from tests.end_to_end.browser.serving import Served

IMAGES = Path(__file__).parents[3] / "docs" / "images"
SCHEMES = ("light", "dark")
_WINDOW = {"width": 1280, "height": 960}
_SETTLED = "() => document.fonts.ready.then(() => !document.querySelector('.htmx-request'))"
_FRAME_MILLISECONDS = 500
_FRIDAY = 4
_SHRUNK = 0.7  # share of the window's size, in the recording
_HOUR_SHOWN = time(10, 45)  # of a working day, in UTC, because a shop is quiet at night

# Converts a PNG picture to WebP, scaled by `share`.
_ENCODE = """async ([png, share, quality]) => {
  const image = new Image();
  image.src = "data:image/png;base64," + png;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(image.width * share);
  canvas.height = Math.round(image.height * share);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/webp", quality).split(",")[1];
}"""


class Camera:
    """A camera that takes pictures of pages as WebP."""

    def __init__(self, browser):
        self._darkroom = (
            browser.new_page()
        )  # not a page of the dashboard, whose policy forbids pictures from data URLs

    def take(self, page, *, share=1.0, quality=0.82):
        """Return the visible part of the page as WebP."""
        page.wait_for_function(_SETTLED)
        png = base64.b64encode(page.screenshot()).decode()
        return base64.b64decode(self._darkroom.evaluate(_ENCODE, [png, share, quality]))


def main():
    """Create all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = launch(playwright)
        camera = Camera(browser)
        for name, make in (("dashboard", seeded), ("first-minute", greeted)):
            with make(Path(folder)) as (served, address):
                warm_up(browser, served, address)
                for scheme in SCHEMES:
                    page = visitor(browser, served, color_scheme=scheme)
                    page.goto(address)
                    keep(f"{name}-{scheme}.webp", camera.take(page))
                    page.context.close()
        with demo(Path(folder)) as served:
            keep("demo.webp", animated(recorded(browser, served, camera)))
        browser.close()


def warm_up(browser, served, address):
    """Open the page once, so that templates are loaded and the past hours are summed up."""
    page = visitor(browser, served)
    page.goto(address)
    eventually(lambda: not served.dashboard.history.missing, within=60)
    page.context.close()


def visitor(browser, served, **options):
    """Return a page of a visitor with a session."""
    context = browser.new_context(
        base_url=served.origin,
        viewport=_WINDOW,
        timezone_id="UTC",
        locale="en-GB",
        reduced_motion="reduce",
        **options,
    )
    context.add_cookies(served.cookies())
    return context.new_page()


def keep(name, content):
    """Write the picture to the documentation's images."""
    (IMAGES / name).write_bytes(content)
    sys.stdout.write(f"{name}: {len(content) / 1024:.0f} KiB\n")


# ---- subjects --------------------------------------------------------------------------------------------


@contextmanager
def shown(fire, address):
    """Serve a dashboard of the app; yield it with the address of the page."""
    served = Served(fire)
    served.start()
    try:
        yield served, address
    finally:
        served.stop()


@contextmanager
def seeded(folder):
    """Yield the dashboard of a shop's year."""
    url = f"sqlite:///{folder / 'shop.db'}"
    shown_at = datetime.combine(datetime.now(UTC), _HOUR_SHOWN, UTC)
    while shown_at > datetime.now(UTC) or shown_at.weekday() > _FRIDAY:
        shown_at -= timedelta(days=1)
    offset = int((shown_at - datetime.now(UTC)) / timedelta(microseconds=1))
    with closing(open_storage(url)) as storage:
        storage.clock_offset = offset
        seeds.fill(storage, 20_000)
    with closing(Firelock(url)) as fire, shown(fire, "/") as place:
        fire.storage.clock_offset = offset
        for info in shop_app.tasks():
            fire.registry.register(info)
        yield place


@contextmanager
def greeted(folder):
    """Yield the page of the job that docs/first-minute.md creates."""
    with closing(Firelock(f"sqlite:///{folder / 'hello.db'}")) as fire:

        @fire.task(name="hello.greet")
        def greet(job: JobContext, name: str) -> str:
            job.log(f"greeting {name}")
            return f"hello {name}"

        with fire.server(workers=2, name="dev on laptop"):
            job = greet.enqueue("Ann")
            job.result(timeout=20)
        with shown(fire, f"/jobs/{job.id}") as place:
            yield place


@contextmanager
def demo(folder):
    """Run the demo's shop in its own process, and yield its dashboard."""
    with ExitStack() as stack:
        command = [sys.executable, "-m", "firelock", "demo", "--dashboard", "--no-browser"]
        shop = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, bufsize=1)
        )
        stack.callback(shop.send_signal, signal.SIGINT)
        printed = next(line for line in shop.stdout if line.startswith("storage"))
        next(line for line in shop.stdout if line.startswith("Dashboard at"))
        fire = stack.enter_context(closing(Firelock(f"sqlite:///{printed.split(maxsplit=1)[1].strip()}")))
        served, _ = stack.enter_context(shown(fire, "/"))
        yield served


# ---- the recording ---------------------------------------------------------------------------------------


def recorded(browser, served, camera):
    """Return the frames: the live shop, its failures, the requeue of a cause, and the shop afterwards."""
    page = visitor(browser, served, color_scheme="light")
    frames = []

    def pause_for_viewers(seconds):
        for _ in range(int(seconds * 1000 / _FRAME_MILLISECONDS)):
            frames.append(camera.take(page, share=_SHRUNK, quality=0.6))
            page.wait_for_timeout(_FRAME_MILLISECONDS)

    # one picture for a page that hardly moves, because each frame costs the same number of bytes
    def hold(seconds):
        still = camera.take(page, share=_SHRUNK, quality=0.6)
        frames.extend([still] * int(seconds * 1000 / _FRAME_MILLISECONDS))

    page.goto("/?span=live")
    page.wait_for_timeout(25_000)  # until the chart has data
    pause_for_viewers(5)
    page.goto("/failures")
    hold(2.5)
    page.get_by_role("link", name=re.compile("CardDeclined")).first.click()
    page.wait_for_load_state()
    hold(2.5)
    requeue = re.compile("requeue", re.IGNORECASE)
    page.get_by_role("button", name=requeue).first.click()
    hold(1.5)
    page.locator("dialog[open]").get_by_role("button", name=requeue).click()
    page.wait_for_load_state()
    pause_for_viewers(1)
    hold(2)
    page.goto("/?span=live")
    pause_for_viewers(5)
    page.context.close()
    return frames


def animated(frames):
    """Return pictures of the same size as an animated WebP; a repeated picture extends the one before it.

    The container follows Google's WebP specification: RIFF with VP8X, ANIM and one ANMF per frame.
    """
    parts = [(bitmap(frame), len(list(same)) * _FRAME_MILLISECONDS) for frame, same in groupby(frames)]
    width, height = size(parts[0][0])
    canvas = three(width - 1) + three(height - 1)
    body = chunk(b"VP8X", bytes([0x02, 0, 0, 0]) + canvas) + chunk(b"ANIM", struct.pack("<IH", 0xFFFFFFFF, 0))
    for picture, milliseconds in parts:
        body += chunk(
            b"ANMF", three(0) * 2 + canvas + three(milliseconds) + b"\x00" + chunk(b"VP8 ", picture)
        )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bitmap(webp):
    """Return the lossy picture in a WebP file."""
    at = 12
    while at < len(webp):
        name, length = webp[at : at + 4], struct.unpack_from("<I", webp, at + 4)[0]
        if name == b"VP8 ":
            return webp[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    raise ValueError("this WebP holds no lossy picture")


def size(picture):
    """Return the width and height of a lossy picture, from the header of its first frame (RFC 6386, 9.1)."""
    width, height = struct.unpack_from("<HH", picture, 6)
    return width & 0x3FFF, height & 0x3FFF


def three(number):
    """Return a number as three bytes."""
    return number.to_bytes(3, "little")


def chunk(name, content):
    """Return a RIFF chunk, padded to an even length."""
    return name + struct.pack("<I", len(content)) + content + b"\x00" * (len(content) % 2)


if __name__ == "__main__":
    main()

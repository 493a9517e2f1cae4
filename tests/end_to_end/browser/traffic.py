"""The traffic of an open page of a busy storage: `python -m tests.end_to_end.browser.traffic`.

Bytes are counted as the browser receives them, including headers and after compression.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections import Counter
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import sync_playwright

from firelock import Firelock
from tests.end_to_end.browser.chromium import launch
from tests.end_to_end.browser.pages import WIDE
from tests.end_to_end.browser.serving import Served

MINUTE = 60.0


def busy(fire, jobs_a_second, is_over):
    """Enqueue jobs of several tasks at this rate until the event is set."""
    tasks = [fire.task(name=f"shop.{name}", queue=queue)(_work) for name, queue in _TASKS]
    number = 0
    while not is_over.wait(1 / jobs_a_second):
        number += 1
        tasks[number % len(tasks)].using(tags=[f"order:{number}"]).enqueue(number, f"customer {number}")


_TASKS = (("mail.send_receipt", "mail"), ("stock.reserve", "stock"), ("reports.daily", "reports"))


_IDLE = threading.Event()  # never set


def _work(number, customer):
    _IDLE.wait(0.05)
    if number % 17 == 0:
        raise ValueError(f"no mailbox for {customer}")
    return f"done {number}"


class Weighed:
    """A counter of a page's bytes and requests by URL.

    `forget` separates the page's first load from the later requests.
    """

    def __init__(self, page):
        self.bytes = Counter()
        self.times = Counter()
        self._names = {}
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.requestWillBeSent", self._requested)
        session.on("Network.loadingFinished", self._loaded)
        session.on("Network.dataReceived", self._streamed)

    def forget(self):
        """Reset the counters."""
        self.bytes.clear()
        self.times.clear()

    def _requested(self, event):
        parts = urlsplit(event["request"]["url"])
        part = parse_qs(parts.query).get("part", [""])[0]
        name = f"{parts.path}?part={part}" if part else parts.path
        self._names[event["requestId"]] = name
        self.times[name] += 1

    def _loaded(self, event):
        self.bytes[self._names.get(event["requestId"], "?")] += int(event["encodedDataLength"])

    def _streamed(self, event):
        name = self._names.get(event["requestId"], "?")
        if name == "/live":  # its response never finishes
            self.bytes[name] += int(event["encodedDataLength"] or event["dataLength"])


def measure(address, *, seconds, jobs_a_second):
    """Return the bytes of a page's first load, and the traffic during these seconds after it."""
    is_over = threading.Event()
    with Firelock("memory://") as fire, sync_playwright() as playwright:
        feeder = threading.Thread(target=busy, args=(fire, jobs_a_second, is_over))
        feeder.start()
        served = Served(fire).start()
        try:
            with fire.server(workers=4):
                browser = launch(playwright)
                context = browser.new_context(base_url=served.origin, viewport=WIDE)
                context.add_cookies(served.cookies())
                page = context.new_page()
                weighed = Weighed(page)
                page.wait_for_timeout(5_000)  # until the page is full of jobs
                page.goto(address, wait_until="load")
                page.wait_for_timeout(2_000)
                first = Counter(weighed.bytes)
                weighed.forget()
                page.wait_for_timeout(seconds * 1_000)
                browser.close()
        finally:
            is_over.set()
            feeder.join()
            served.stop()
    return first, weighed


def main():
    """Print the traffic by URL."""
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.browser.traffic", description=__doc__)
    parser.add_argument("address", nargs="?", default="/jobs")
    parser.add_argument("--seconds", type=float, default=MINUTE)
    parser.add_argument("--jobs-a-second", type=float, default=30.0)
    options = parser.parse_args()
    first, weighed = measure(options.address, seconds=options.seconds, jobs_a_second=options.jobs_a_second)
    for name, size in weighed.bytes.most_common():
        sys.stdout.write(f"{size / 1000:9.1f} KB  {weighed.times[name]:4} times  {name}\n")
    a_minute = sum(weighed.bytes.values()) * MINUTE / options.seconds
    sys.stdout.write(f"{sum(first.values()) / 1000:9.1f} KB first load\n{a_minute / 1000:9.1f} KB a minute\n")


if __name__ == "__main__":
    main()

"""A visitor who acts on a page with JavaScript, or only with plain forms."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.sync_api import expect


class Visitor:
    """A visitor of one page, who sees results as a toast, or in the banner of the next page."""

    def __init__(self, page, *, has_script):
        self.page = page
        self.has_script = has_script
        self.posted = set()  # paths
        page.on("request", self._note)

    def _note(self, request):
        if request.method == "POST":
            self.posted.add(urlsplit(request.url).path)

    def go(self, address):
        """Open an address."""
        self.page.goto(address)
        return self

    def press(self, name, within=None):
        """Press the first visible button with this name; an ellipsis at its end may be omitted."""
        place = within or self.page.locator("main, .bulk").first
        place.get_by_role("button", name=re.compile(rf"^{re.escape(name)}(…| …)?$")).locator(
            "visible=true"
        ).first.click()
        return self

    def is_sure(self, question, verb):
        """Confirm the action in the dialog, or on the confirmation page if there is one."""
        if self.has_script:
            dialog = self.page.locator("dialog[open]")
            expect(dialog).to_contain_text(question)
            dialog.locator("button.primary").click()
        elif verb is not None:
            expect(self.page.locator("main")).to_contain_text(question)
            self.page.locator("main").get_by_role("button", name=verb, exact=True).click()
        return self

    def shows_result(self, text):
        """Assert that the page shows this result."""
        place = ".toast" if self.has_script else "main > .banner"
        expect(self.page.locator(place).filter(has_text=text)).to_be_visible()

    def open_menu(self, row):
        """Open the menu of a row, and return the element with its actions.

        Without a script, this is on the page that the menu links to.
        """
        opener = row.locator("a[data-menu]")
        address = opener.get_attribute("href")
        opener.click()
        if self.has_script:
            return row.locator(".menu > .list")
        self.page.wait_for_url(f"**{address}")
        for further in self.page.locator("main details.menu > summary").all():
            further.click()
        return self.page.locator("main .page-head")

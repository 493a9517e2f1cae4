"""Measurements that tests run on a page."""

from __future__ import annotations

from pathlib import Path

WIDE = {"width": 1440, "height": 900}
NARROW = {"width": 390, "height": 844}

# Returns the elements that make the page wider than the window, except those that scroll within themselves.
_OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.scrollingElement.scrollWidth <= wide) return [];
  const wide_elements = [...document.querySelectorAll("body *")]
    .filter((one) => one.getBoundingClientRect().right > wide + 1 && !one.parentElement.closest(".scroll"))
    .map((one) => `${one.tagName} ${one.className} ${Math.round(one.getBoundingClientRect().right)}`);
  return [`${document.scrollingElement.scrollWidth} > ${wide}`, ...wide_elements.slice(0, 12)];
}"""

_BRIGHTNESS = """() => {
  const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number);
  return Math.round((red + green + blue) / 3);
}"""


def overflow(page):
    """Return the elements that make the page scroll sideways; the list is empty if it does not."""
    return page.evaluate(_OVERFLOW)


def brightness(page):
    """Return the brightness of the page's background, from 0 to 255."""
    return page.evaluate(_BRIGHTNESS)


# ---- axe -------------------------------------------------------------------------------------------------

AXE = Path(__file__).parents[2] / "dashboard" / "node_modules" / "axe-core" / "axe.min.js"
LANDMARKS = ["landmark-unique", "page-has-heading-one"]  # axe rates these rules as moderate
_RUN_AXE = """async (rules) => {
  const options = { resultTypes: ["violations"] };
  if (rules) options.runOnly = { type: "rule", values: rules };
  const found = await axe.run(document, options);
  const messages = (node) => [...node.any, ...node.all, ...node.none].map((check) => check.message);
  const described = (node) => [node.html.slice(0, 160), ...messages(node)].join(" ");
  return found.violations
    .filter((one) => rules || ["serious", "critical"].includes(one.impact))
    .map((one) => [one.id, ...one.nodes.slice(0, 4).map(described)].join(" | "));
}"""


def run_axe(page, rules=None):
    """Return the violations that axe finds with these rules.

    Without rules, return the violations of all rules that axe rates as serious or critical.
    """
    if not page.evaluate("() => Boolean(window.axe)"):
        page.add_script_tag(path=AXE)
    return page.evaluate(_RUN_AXE, rules)

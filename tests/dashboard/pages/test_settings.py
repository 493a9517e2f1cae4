"""Settings, which apply to one visitor and are stored in a cookie."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from firelock import Firelock
from firelock_dashboard import Dashboard
from firelock_dashboard.web.request import SETTINGS
from tests.dashboard.browser import Browser

PAIRS = [(name, choice) for name, choices in SETTINGS.items() for choice in choices]


@pytest.fixture
def fire():
    """An app in memory; one storage is sufficient, because settings are not in the storage."""
    with closing(Firelock("memory://")) as fire:
        yield fire


def chosen(client):
    """Return the choices that the page shows as selected."""
    page = client.get("/settings").text
    return {
        name: choice for name, choice in PAIRS if f'name="{name}" value="{choice}" checked' in page
    }  # fmt: skip


DEFAULTS = {name: choices[0] for name, choices in SETTINGS.items()}


def test_settings_page_shows_every_choice_and_default(client):
    """The first choice of each setting is the default."""
    page = client.get("/settings").text

    assert [pair for pair in PAIRS if f'name="{pair[0]}" value="{pair[1]}"' not in page] == []
    assert DEFAULTS == chosen(client)


@pytest.mark.parametrize(("name", "choice"), PAIRS)
def test_changed_setting_keeps_the_others(client, name, choice):
    """A script sends only the changed field and gets a JSON response."""
    answer = client.act("/settings", {name: choice})

    assert (200, "good") == (answer.status, answer.json()["kind"])
    assert DEFAULTS | {name: choice} == chosen(client)


def test_settings_sent_separately_are_combined(client):
    """Settings may be sent one at a time or all together in the form.

    The form redirects the visitor to the page in its `back` field.
    """
    client.act("/settings", {"theme": "dark"})
    client.act("/settings", {"times": "absolute"})
    assert DEFAULTS | {"theme": "dark", "times": "absolute"} == chosen(client)

    answer = client.post(
        "/settings",
        {"theme": "light", "density": "compact", "times": "relative", "shortcuts": "off", "back": "/queues"},
    )
    assert (303, "/queues") == (answer.status, answer.location)
    assert {"theme": "light", "density": "compact", "times": "relative", "shortcuts": "off"} == chosen(client)


def test_pages_follow_the_settings(client):
    """Each page's HTML contains the theme, density and format of times, so they apply before it is drawn."""
    client.act("/settings", {"theme": "dark", "density": "compact", "times": "absolute"})

    assert 'data-theme="dark" data-density="compact" data-times="absolute"' in client.get("/queues").text


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ({}, "theme"), ({"back": "/"}, "theme"), ({"colour": "red"}, "theme"), ({"theme": "pink"}, "theme"),
        ({"theme": ""}, "theme"), ({"theme": "Dark"}, "theme"), ({"theme": ["dark", "light"]}, "theme"),
        ({"theme": "dark", "density": "huge"}, "density"), ({"times": "x" * 5_000}, "times"),
        ({"shortcuts": "on\0"}, "shortcuts"), ({"theme": "dark.density=compact"}, "theme"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_invalid_choice_changes_nothing(client, form, names):
    """The response is a 400 that names the field. It does not set a cookie."""
    answer = client.act("/settings", form)

    assert 400 == answer.status
    assert names in answer.json()["error"]
    assert [] == answer.every("set-cookie")


@pytest.mark.parametrize(
    "cookie",
    [
        "", "theme", "theme=", "theme=pink", "=dark", "theme=dark=x", "....", "a=b.c=d", "x" * 4_000,
        "theme=<script>", '"theme=\\"dark', "\xe9", "theme=light.theme", "density=dark",
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_invalid_cookie_is_ignored(client, cookie):
    """The page is shown for any cookie. Each setting without a valid choice has its default value."""
    client.cookies["firelock_settings"] = cookie

    assert chosen(client) in (DEFAULTS, DEFAULTS | {"theme": "light"})
    assert 200 == client.act("/settings", {"density": "compact"}).status
    assert "compact" == chosen(client)["density"]


@pytest.mark.parametrize(
    ("options", "request_options", "is_secure"),
    [
        ({}, {}, False), ({}, {"scheme": "https"}, True),
        ({"trusts_proxy": True}, {"headers": {"x-forwarded-proto": "https"}}, True),
        ({}, {"headers": {"x-forwarded-proto": "https"}}, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("root", ["", "/admin/jobs"])
def test_cookie_is_limited_to_this_mount(fire, root, options, request_options, is_secure):
    """Scripts cannot read the cookie, other sites cannot send it, and it is not sent to any other path."""
    dashboard = Dashboard(fire, auth=lambda _: "read", **options)
    with closing(Browser(dashboard, root=root)) as browser:
        answer = browser.post("/settings", {"theme": "dark"}, **request_options)
    cookies = {line.split("=", 1)[0]: line.lower() for line in answer.every("set-cookie")}

    assert {"firelock_settings", "firelock_flash"} == set(cookies)
    for line in cookies.values():
        parts = line.split("; ")
        assert {"httponly", "samesite=strict", f"path={root}/"} <= set(parts)
        assert is_secure == ("secure" in parts)
        assert "domain" not in line


@pytest.mark.parametrize(
    ("link", "is_shown"),
    [
        ("/queues", True), ("/jobs?state=failed", True),
        ("//evil.example", False), ("/\\evil.example", False),
        ("https://evil.example", False), ("javascript:alert(1)", False), ("/a//evil.example", False),
        (7, False),
    ],
)  # fmt: skip
def test_message_links_stay_in_the_dashboard(client, link, is_shown):
    """Another site on the same domain may have set the cookie that contains the message."""
    client.cookies["firelock_flash"] = json.dumps(["good", "Well done", link, None]).encode().hex()

    text = client.get("/queues").text
    message = text[text.index("Well done") - 300 : text.index("Well done") + 300]

    assert is_shown == (f'href="{link}"' in message)
    assert "evil" not in text


def test_settings_are_not_audited(fire, client):
    """Settings affect only the visitor who changes them."""
    client.act("/settings", {"theme": "dark"})

    assert [] == list(fire.audit.list())

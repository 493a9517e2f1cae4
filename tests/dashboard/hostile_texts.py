"""Hostile strings that job data may contain and that a page must show literally."""

from __future__ import annotations

# None of these strings may change a page's markup. `assert_literal` searches for their marks.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "</textarea></title></style><iframe src=//evil.example>",
    '<svg><a xlink:href="javascript:alert(1)">x</a></svg>',
    "javascript:alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    "<style>*{background:url(//evil.example)}</style>",
    '" style="background:url(//evil.example)',
    '" hx-get="//evil.example" hx-trigger="load',
    '" onfocus=alert(1) autofocus="',
    "{{7*7}}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "{{constructor.constructor('alert(1)')()}}",
    '<div v-html="x" ng-app>',
    "{% raw %}{{ dashboard }}",
    "<!--><script>alert(1)</script>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "a\u202egnp.exe\u202c\u2066b\u2069",  # control characters that change the text direction
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",  # terminal escape sequences
    "line\r\nSet-Cookie: a=b\r\n\r\n<script>alert(1)</script>",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "=cmd|' /C calc'!A1",
    "x" * 5_000,  # no position for a line break
    "İıﬁ😀\u0301\u200d\ufeff",
]

# Parts of a page that can only occur if one of the strings above has become markup.
MARKS = (
    "<script>alert", "<img src=x", "<svg onload", "<svg><a", "<iframe src=//evil", "<style>*{",
    '<a href="javascript', '" style="background', '" hx-get="//evil', '" onfocus=alert', "<div v-html",
    "<![CDATA[",
)  # fmt: skip


def assert_literal(html):
    """Assert that no hostile string has become part of the page's own markup."""
    assert [mark for mark in MARKS if mark in html] == []

"""Request bodies: no body is read beyond the maximum size of a form."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import closing
from itertools import repeat

import pytest
from starlette.requests import Request

from firelock_dashboard import Dashboard
from firelock_dashboard.problems import RequestProblem
from firelock_dashboard.web.request import read_body
from tests.dashboard.browser import FORM, Browser

MEBI = 1024 * 1024
OWN = {"sec-fetch-site": "same-origin", "content-type": FORM}


def send(client, body, **headers):
    given = {**OWN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return client.request("POST", "/queues/pause", headers=given, body=body)


def paused(fire):
    return [queue.name for queue in fire.queues.list() if queue.is_paused]


def counted(chunks, taken):
    for chunk in chunks:
        taken.append(len(chunk))
        yield chunk


def test_large_body_is_refused_by_its_content_length(client, fire):
    """The body is refused before any of it is read."""
    taken = []

    answer = send(
        client, counted([b"queue=mail&note=" + b"x" * 10 * MEBI], taken), content_length=str(10 * MEBI)
    )

    assert 413 == answer.status
    assert str(MEBI) in answer.text
    assert [] == taken
    assert [] == paused(fire)


@pytest.mark.parametrize("length", [None, "12", "-1", "x", "٣", "9" * 5_000])
def test_endless_body_is_read_only_up_to_the_limit(client, fire, length):
    """For any Content-Length, at most one chunk beyond the limit is read."""
    taken = []
    headers = {} if length is None else {"content_length": length.encode().decode("latin-1")}

    answer = send(client, counted(repeat(b"x" * 65_536), taken), **headers)

    assert 413 == answer.status
    assert sum(taken) <= MEBI + 65_536
    assert [] == paused(fire)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x-gzip", "identity, gzip", "GZIP"])
def test_compressed_body_is_refused(client, fire, coding):
    """A small compressed body may be large when it is decompressed, so it is refused without reading it."""
    bomb = gzip.compress(b"queue=mail&note=" + b"x" * 50 * MEBI)
    taken = []

    answer = send(client, counted([bomb], taken), content_encoding=coding)

    assert 415 == answer.status
    assert [] == taken
    assert [] == paused(fire)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (None, b"queue=mail"), ("", b"queue=mail"), ("text/plain", b"queue=mail"), ("*/*", b"queue=mail"),
        ("application/xml", b"<queue>mail</queue>"), ("application/x-www-form-urlencoded2", b"queue=mail"),
        ("multipart/form-data; boundary=x",
         b'--x\r\nContent-Disposition: form-data; name="queue"\r\n\r\nmail\r\n--x--\r\n'),
    ],
)  # fmt: skip
def test_other_content_types_are_refused(client, fire, kind, body):
    """Another site's page may send some of these types, such as text/plain, without a preflight request.

    The error names the accepted type.
    """
    answer = send(client, body, content_type=kind)

    assert 415 == answer.status
    assert FORM in answer.text
    assert [] == paused(fire)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"queue=%ff", "UTF-8"), (b"queue=%f0%28", "UTF-8"), ("queue=möhre".encode(), "ASCII"),
        (b"queue=mail\xff", "ASCII"), (b"queue=a&queue=b", "queue"), (b"queue=", "queue"),
        (b"&&&===", "queue"),
        (b"queue=%00", "queue"), (b"queue=" + b"x" * 5_000, "queue"),
        (b"&".join(b"f%d=1" % number for number in range(10_000)), "fields"),
    ],
    ids=lambda value: None if isinstance(value, str) else ascii(value[:20]),
)  # fmt: skip
def test_malformed_form_is_refused_with_the_cause(client, fire, body, word):
    """The error names the field or the rule. A form with ten thousand fields counts as malformed too."""
    answer = send(client, body)

    assert 400 == answer.status
    assert word in answer.text
    assert [] == paused(fire)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"queue"', b"null", b"1" * 10_000, b"[" * 100_000, b'{"queue":{"a":1}}',
        b'{"queue":[["a"]]}', b"\xff\xfe", b'{"queue":NaN}', b'{"queue":1e999}',
    ],
    ids=lambda body: ascii(body[:20]),
)  # fmt: skip
def test_malformed_json_is_refused(client, fire, body):
    """Extremely deep nesting and very long numbers do not have any effect except the error."""
    answer = send(client, body, content_type="application/json", accept="application/json")

    assert answer.status in {400, 404, 422}
    assert answer.json()["error"]
    assert [] == paused(fire)


def test_slow_body_times_out():
    """If the body does not arrive in time, the response is a 408 and the connection is no longer occupied."""

    async def receive():
        await asyncio.Event().wait()

    async def wait():
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", FORM.encode())]}
        return await read_body(Request(scope, receive), seconds=0.0)

    with pytest.raises(RequestProblem, match="did not arrive") as refusal:
        asyncio.run(wait())
    assert 408 == refusal.value.status


# ---- compressed responses --------------------------------------------------------------------------------


def packed_length(answer):
    """Return the length of a compressed response, or None if it is not compressed."""
    if answer.header("content-encoding") is None:
        return None
    assert str(len(answer.body)) == answer.header("content-length")
    return len(answer.body)


@pytest.mark.parametrize("target", ["/", "/jobs", "/queues?part=nav", "/api/openapi.json"])
def test_pages_and_parts_are_compressed(client, target):
    """Clients that accept gzip get the same content in compressed form. The `Vary` header informs caches."""
    plain = client.get(target, headers={"sec-fetch-site": "same-origin"})
    answer = client.get(target, headers={"sec-fetch-site": "same-origin", "accept-encoding": "br, gzip"})

    assert packed_length(plain) is None
    assert ("Accept-Encoding", "Accept-Encoding") == (plain.header("vary"), answer.header("vary"))
    assert packed_length(answer) < len(plain.body) / 2
    assert gzip.decompress(answer.body)[:100] == plain.body[:100]


@pytest.mark.parametrize(
    ("scheme", "site", "is_packed"),
    [
        ("http", None, True), ("http", "cross-site", True), ("https", "same-origin", True),
        ("https", "none", True), ("https", "cross-site", False), ("https", "same-site", False),
        ("https", None, False), ("https", "Same-Origin", False),
    ],
)  # fmt: skip
def test_cross_site_requests_over_tls_get_no_compressed_response(fire, scheme, site, is_packed):
    """If an attacker controls part of a page, the length of a compressed response could reveal the rest."""
    headers = {
        "accept-encoding": "gzip",
        "sec-fetch-site": site,
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    dashboard = Dashboard(fire, auth=lambda _: "admin")
    with closing(dashboard), closing(Browser(dashboard)) as browser:
        answer = browser.get("/jobs", headers=headers, scheme=scheme)

    assert (200, is_packed) == (answer.status, packed_length(answer) is not None)


def test_compressed_response_has_a_random_length(client):
    """The header of the gzip data contains a random number of bytes that decoders ignore."""
    headers = {"accept-encoding": "gzip", "sec-fetch-site": "same-origin"}

    answers = [client.get("/api/openapi.json", headers=headers) for _ in range(20)]

    assert 1 == len({gzip.decompress(answer.body) for answer in answers})
    assert 5 < len({packed_length(answer) for answer in answers})


def test_small_responses_and_files_are_not_compressed(client):
    """Responses of one packet, downloads, and files that the build has compressed are sent unchanged."""
    headers = {"accept-encoding": "gzip", "sec-fetch-site": "same-origin"}

    assert packed_length(client.get("/api/jobs/counts", headers=headers)) is None
    assert packed_length(client.get("/jobs/export", headers=headers)) is None
    assert packed_length(client.request("HEAD", "/api/jobs/counts", headers=headers)) is None

"""Static files: their URLs, their compressed forms, refused paths, and limits on their total size."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib.resources import files

import pytest
from starlette.datastructures import Headers

from firelock import ConfigurationError
from firelock_dashboard.web.assets import Assets, preferred_encoding

PACKAGE = files("firelock_dashboard")
VENDOR = ("vendor/htmx.min.js", "vendor/uPlot.iife.min.js", "vendor/uPlot.min.css")
STYLE = b"main { color: CanvasText; background: Canvas }\n" * 20
BROWSER = "gzip, deflate, br, zstd"


@pytest.fixture
def folder(tmp_path):
    """A folder with all required static files, and with files that must not be served."""
    static = tmp_path / "static"
    (static / "vendor").mkdir(parents=True)
    for name in VENDOR:
        (static / name).write_bytes(b"/* theirs */" * 20)
    (static / "firelock.css").write_bytes(STYLE)
    (static / "vendor" / "htmx.min.js.map").write_bytes(b"{}")
    (static / "vendor" / ".made").write_bytes(b"stamp")
    (tmp_path / "secret.css").write_bytes(b"secret")
    return static


def fetch(assets, name, **headers):
    """Return the response to a request for the file of this name."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return assets.response(assets.url(name).removeprefix("files/"), Headers(named))


def sources(*suffixes):
    """Return the text of the dashboard's own files and of third-party files by name."""
    assets = Assets()
    return {
        name: fetch(assets, name).body.decode()
        for name in sorted(assets.names)
        if name.endswith(suffixes)
    }  # fmt: skip


def templates():
    """Return every template by name, without the tags of the template language."""
    found = sorted(PACKAGE.joinpath("templates").rglob("*.html"))
    return {
        path.name: re.sub(r"\{%.*?%\}|\{#.*?#\}|\{\{.*?\}\}", "", path.read_text(), flags=re.DOTALL)
        for path in found
    }


# ---- URLs ------------------------------------------------------------------------------------------------


def test_static_url_contains_the_content_hash(folder):
    """The URL contains the first eight digits of the content's SHA-256 before the suffix of the file name."""
    expected = hashlib.sha256(STYLE).hexdigest()[:8]

    assert f"files/firelock.{expected}.css" == Assets(folder).url("firelock.css")


def test_unknown_file_name_error_lists_the_known_names(folder):
    """An unknown name is a mistake in the page's code, so the error lists the known names."""
    with pytest.raises(ConfigurationError, match=r"No static file is named 'fire\.css'.*firelock\.css"):
        Assets(folder).url("fire.css")


@pytest.mark.parametrize("name", VENDOR)
def test_missing_third_party_file_error_explains_the_build(folder, name):
    """The dashboard does not start without htmx or uPlot.

    The error names the missing file and explains the fix.
    """
    (folder / name).unlink()

    with pytest.raises(ConfigurationError, match=rf"{re.escape(name)}.*are missing.*make setup"):
        Assets(folder)


# ---- responses -------------------------------------------------------------------------------------------


def test_static_file_is_cached_for_a_year(folder):
    """Caches keep the file for a year, never revalidate it, and store its compressed forms separately."""
    answer = fetch(Assets(folder), "firelock.css")

    assert 200 == answer.status_code
    assert "public, max-age=31536000, immutable" == answer.headers["cache-control"]
    assert "Accept-Encoding" == answer.headers["vary"]
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert str(len(STYLE)) == answer.headers["content-length"]
    assert STYLE == answer.body


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("firelock.css", "text/css; charset=utf-8"),
        ("firelock.js", "text/javascript; charset=utf-8"),
        ("vendor/htmx.min.js", "text/javascript; charset=utf-8"),
        ("vendor/htmx.LICENSE.txt", "text/plain; charset=utf-8"),
        ("flame.svg", "image/svg+xml; charset=utf-8"),
    ],
)
def test_content_type_follows_the_suffix(name, expected):
    """Types do not depend on the machine's configuration, and text types include the character set."""
    assert expected == fetch(Assets(), name).headers["content-type"]


def test_own_scripts_and_styles_are_sent_without_comments(folder):
    """Comment lines, blank lines and indentation are removed, except in third-party files."""
    (folder / "a.js").write_bytes(b'// What it is.\nif (a) {\n  // Why.\n  b("//c"); // d\n\n}\n')
    (folder / "firelock.css").write_bytes(b"/* What\n   it is. */\n\nmain {\n  color: red; /* why */\n}\n")
    assets = Assets(folder)

    assert b'if (a) {\nb("//c"); // d\n}\n' == fetch(assets, "a.js").body
    assert b"main {\ncolor: red; \n}\n" == fetch(assets, "firelock.css").body
    assert b"/* theirs */" * 20 == fetch(assets, "vendor/uPlot.min.css").body


@pytest.mark.parametrize(
    "name", [one.name for one in (PACKAGE / "static").iterdir() if one.name.endswith(".js")]
)
def test_template_literals_of_scripts_are_on_one_line(name):
    """A template literal that spans several lines would lose its indentation."""
    lines = (PACKAGE / "static" / name).read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if line.count("`") % 2] == []


@pytest.mark.parametrize(
    ("name", "content"), [("firelock.css", STYLE), ("vendor/htmx.min.js", b"/* theirs */" * 20)]
)
def test_file_is_compressed_once(folder, name, content):
    """The compressed file is created for the first request and kept."""
    assets = Assets(folder)

    first = fetch(assets, name, accept_encoding=BROWSER)
    second = fetch(assets, name, accept_encoding=BROWSER)

    assert "gzip" == first.headers["content-encoding"]
    assert content == gzip.decompress(first.body)
    assert str(len(first.body)) == first.headers["content-length"]
    assert first.body is second.body


def test_client_without_compression_gets_the_plain_file(folder):
    """The file is sent as it is if the client does not accept gzip."""
    answer = fetch(Assets(folder), "vendor/htmx.min.js", accept_encoding="br")

    assert "content-encoding" not in answer.headers
    assert b"/* theirs */" * 20 == answer.body


def test_compressed_form_that_is_not_smaller_is_not_sent(folder):
    """A very short file is longer when compressed, so it is sent uncompressed."""
    (folder / "dot.svg").write_bytes(b"<svg/>")

    answer = fetch(Assets(folder), "dot.svg", accept_encoding=BROWSER)

    assert "content-encoding" not in answer.headers
    assert b"<svg/>" == answer.body


def test_matching_if_none_match_gets_a_304(folder):
    """If-None-Match may contain the file's tag, alone or among others, weak or strong, or `*`.

    The response is then a 304 without a body.
    """
    assets = Assets(folder)
    etag = fetch(assets, "firelock.css", accept_encoding="gzip").headers["etag"]

    for sent in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = fetch(assets, "firelock.css", accept_encoding="gzip", if_none_match=sent)
        assert (304, b"", etag) == (answer.status_code, answer.body, answer.headers["etag"])


def test_each_compressed_form_has_its_own_etag(folder):
    """A tag identifies bytes, so the tag of the compressed form does not match the uncompressed one."""
    assets = Assets(folder)
    packed = fetch(assets, "firelock.css", accept_encoding="gzip").headers["etag"]

    answer = fetch(assets, "firelock.css", if_none_match=packed)

    assert 200 == answer.status_code
    assert packed != answer.headers["etag"]


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (BROWSER, "br"),
        ("", "identity"),
        ("*", "br"),
        ("*;q=0.1, gzip;q=0.2", "gzip"),
        ("br;q=0, *", "gzip"),
        ("br;q=0, gzip;q=0", "identity"),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=0.5, identity", "identity"),
        ("gzip; q=1.000 , br ; q=0.999", "gzip"),
        ("GZIP;Q=0.8", "gzip"),
        ("x-gzip", "gzip"),
        ("identity;q=0", "identity"),
        ("identity;q=0, gzip", "gzip"),
        ("*;q=0", "identity"),
        ("gzip;q=2", "identity"),
        ("gzip;q=-1", "identity"),
        ("gzip;q=0.1234", "identity"),
        ("gzip;q=nan, br;q=inf", "identity"),
        ("gzip;q=1;q=0", "identity"),
        ("gzip;level=9", "identity"),
        (",;,;q=1,,", "identity"),
        ("deflate, zstd", "identity"),
        ("brr, gzipp", "identity"),
    ],
)
def test_preferred_encoding_is_chosen(accepted, expected):
    """The weights determine the choice, then the server's order.

    Refused, unknown and malformed codings are not chosen.
    """
    assert expected == preferred_encoding(accepted, ["br", "gzip", "identity"])


# ---- refused paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        ".",
        "..",
        "firelock.css",  # without the hash, because the file would be cached forever
        "firelock.00000000.css",
        "../secret.css",
        "../../secret.css",
        "vendor/../../secret.css",
        "vendor",
        "vendor/",
        "vendor/.made",
        "vendor/htmx.min.js",
        "vendor/htmx.min.js.map",
        "..\\secret.css",
        "vendor\\htmx.min.js",
        "%2e%2e/secret.css",
        "..%2fsecret.css",
        "\x00",
        "firelock.css\x00.js",
        "/etc/passwd",
        "C:\\secret.css",
        "file:///etc/passwd",
        "\uff0e\uff0e/secret.css",
    ],
)
def test_path_outside_the_table_is_not_found(folder, path):
    """Paths with `..`, other spellings of a path, and names without their hash are not in the table."""
    answer = Assets(folder).response(path, Headers())

    assert 404 == answer.status_code
    assert b"File not found." == answer.body
    assert "no-store" == answer.headers["cache-control"]
    assert "nosniff" == answer.headers["x-content-type-options"]


def test_file_added_after_startup_is_not_found(folder):
    """The table is created once, so files that are added to the folder later are not served."""
    assets = Assets(folder)
    (folder / "late.css").write_bytes(STYLE)

    assert (
        404 == assets.response(Assets(folder).url("late.css").removeprefix("files/"), Headers()).status_code
    )


# ---- total size and contents -----------------------------------------------------------------------------


def weight(names):
    """Return the number of bytes that a browser with gzip loads for these files."""
    assets = Assets()
    return sum(len(fetch(assets, name, accept_encoding="gzip").body) for name in names)


def test_size_of_scripts_is_bounded():
    """The scripts take at most 40 KiB over the network, or 65 KiB with the charts that some pages load."""
    scripts = sources(".js")
    charts = {name for name in scripts if "uPlot" in name}

    assert charts
    assert weight(scripts.keys() - charts) <= 40 * 1024
    assert weight(scripts) <= 65 * 1024


def test_size_of_styles_is_bounded():
    """The styles take at most 14 KiB over the network."""
    assert weight(sources(".css")) <= 14 * 1024


def test_static_files_load_nothing_from_other_hosts():
    """Scripts, styles and pictures load nothing from other hosts; namespaces and comments do not count."""
    offences = [
        (name, found[0])
        for name, text in sources(".js", ".css", ".svg").items()
        for found in re.finditer(
            r"https?://[^\s\"'`)]+|[\"'`(]//\w[^\s\"'`)]*|@import\b",
            re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).replace("http://www.w3.org/", ""),
        )
    ]

    assert [] == offences


def test_templates_load_nothing_from_other_hosts():
    """A page loads scripts, styles and pictures only from its own host, and sends forms only there."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|form|link|use|image)\b[^>]*[\"'](?:https?:)?//[^>]*", re.IGNORECASE
    )

    assert [] == [(name, found) for name, text in templates().items() for found in loads.findall(text)]


@pytest.mark.parametrize(
    "pattern",
    [
        r"<[^>]*\sstyle\s*=[^>]*",
        r"<[^>]*\s(?:data-)?(?:on[a-z]+|hx-on[^\s=>]*)\s*=[^>]*",
        r"<style\b",
        r"<script(?![^>]*\ssrc=)[^>]*>",
        r"javascript:",
    ],
    ids=["style attribute", "event attribute", "style element", "script without src", "script address"],
)
def test_templates_comply_with_the_content_security_policy(pattern):
    """The content security policy forbids inline styles and scripts, so no template has any."""
    pages = templates()

    assert pages
    assert [] == [
        (name, found) for name, text in pages.items() for found in re.findall(pattern, text, re.IGNORECASE)
    ]

"""One word for each thing, no meaningless names, and no text about a single machine."""

from __future__ import annotations

import ast
import re
from urllib.parse import urlsplit

from tests.repository.sources import ROOT, package_sources, texts

EMPTY_MODULE_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
EMPTY_CLASS_NAME = re.compile(
    r"^_?(Base|Abstract)[A-Z]|(Manager|Helper|Helpers|Util|Utils|Impl|Port|Processor)$"
)
EMPTY_FUNCTION_NAME = re.compile(r"^_?(do_\w+|process|handle)$")
STATES = ["awaiting", "scheduled", "enqueued", "processing", "succeeded", "failed", "deleted"]

# Hosts that the project may name; hosts reserved by RFC 2606 and RFC 6761 need no entry.
HOSTS = {
    "docs.python.org",
    "keepachangelog.com",
    "opentelemetry.io",  # in the identifier of the conventions that spans follow
    "semver.org",
    "www.sqlite.org",
    "www.w3.org",  # in SVG's namespace
}
RESERVED_HOST = re.compile(r"(^|\.)(example(\.com|\.net|\.org)?|test|invalid|localhost)$")
LOOPBACK = {"127.0.0.1", "::1", "0.0.0.0"}
URL = re.compile(r"https?://[^\s\"'`)>\]}\\]+")

HOME_OF_SOMEBODY = re.compile(r"(?<![\w.])/(home|Users)/[a-z]|(?<![\w.~])/root/|/work/")
NUMBER_OF_AN_ISSUE = re.compile(
    # Six digits are a colour.
    r"\b(issue|PR|pull request|GH|ticket)[ -]?#?\d+\b|(?<=[ (])#\d{2,5}\b",
    re.IGNORECASE,
)


def is_ours_to_name(url):
    """Return whether a URL's host is reserved, loopback, listed, or only a placeholder."""
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return True
    named = "." in host and not re.search(r"[{}$<>%…*]", host)
    return not named or host in LOOPBACK | HOSTS or RESERVED_HOST.search(host) is not None


def lines_with(pattern):
    """Return every line of the project's text files that matches a pattern, except in this file."""
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts()
        if name != "tests/repository/test_words.py"
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_names_are_meaningful():
    """No class is called a manager, no module collects utilities, and no function is only called `do`."""
    empty = []
    for source in package_sources():
        if source.path.stem in EMPTY_MODULE_NAMES:
            empty.append(source.name)
        for node in ast.walk(source.tree):
            match node:
                case ast.ClassDef(name=name) if EMPTY_CLASS_NAME.search(name):
                    empty.append(f"{source.name}:{node.lineno} class {name}")
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if (
                    EMPTY_FUNCTION_NAME.match(name)
                ):
                    empty.append(f"{source.name}:{node.lineno} def {name}")

    assert empty == []


def test_job_states_match_the_glossary():
    """A job has the seven states in the glossary, in the same order."""
    from firelock.model.state import State

    assert [str(state) for state in State] == STATES


def test_every_host_in_a_text_is_permitted():
    """Links lead to known hosts, examples use reserved names, and no text names a source of packages."""
    unpermitted = [
        f"{name}: {url}" for name, text in texts() for url in URL.findall(text) if not is_ours_to_name(url)
    ]

    assert unpermitted == []


def test_lock_file_contains_no_package_source():
    """The lock file contains versions and hashes.

    The person who installs the packages chooses their source.
    """
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")

    assert re.findall(r"\w+://\S+|--(?:extra-)?index-url\S*|--find-links\S*", lock) == []
    assert lock.count("--hash=sha256:") > lock.count("==") > 0


def test_no_text_mentions_a_local_folder():
    """Nothing in the project depends on the machine on which it was written, or mentions it."""
    assert lines_with(HOME_OF_SOMEBODY) == []


def test_no_text_refers_to_an_issue_tracker():
    """A comment must contain the reason itself, because the number of an issue is not a reason."""
    assert lines_with(NUMBER_OF_AN_ISSUE) == []

"""The public API is listed, and it contains everything that authors of storages need."""

from __future__ import annotations

import difflib

import pytest

from tests.repository.public_api import COMMAND, FILE, PACKAGES, PublicApi, behind, is_public, text

# The interfaces that an author of a storage implements.
CONTRACTS = (
    "firelock.storage.Storage",
    "firelock.storage.Tables",
    "firelock.storage.Rows",
    "firelock.limits.KeyedLanes",
)
FOR_AUTHORS = ("firelock.storage.", "firelock.limits.")


@pytest.fixture(scope="module")
def api():
    """The public API of the sources."""
    return PublicApi()


def test_public_api_matches_the_list(api):
    """A change of a public name, a signature or a default changes the list, so a reviewer notices it."""
    listed = FILE.read_text(encoding="utf-8")
    changes = difflib.unified_diff(listed.splitlines(), text(api).splitlines(), n=0, lineterm="")

    changed = "\n".join(line for line in changes if not line.startswith(("---", "+++", "@@")))
    assert not changed, (
        f"The public API differs from {FILE.name}. If that is meant, run: {COMMAND}\n{changed}"
    )


def test_records_of_a_storage_are_exported_to_its_authors(api):
    """If a class is used in a contract's signature, or in a field of such a class, it is exported."""
    exported = {line.partition(": ")[0].partition(" = ")[0] for line in api.lines}
    open_ = [api.modules[contract] for contract in CONTRACTS]
    seen, missing = set(), set()
    while open_:
        target = behind(open_.pop())
        if target.path in seen:
            continue
        seen.add(target.path)
        if not any(f"{path}{target.name}" in exported for path in FOR_AUTHORS):
            missing.add(target.path)
        for member in {**target.inherited_members, **target.members}.values():
            open_ += [one for one in named(api, behind(member)) if one.is_class]

    assert len(seen) > len(CONTRACTS)
    assert missing == set()


def named(api, member):
    """Return the objects in the signature or annotation of a public member."""
    if not is_public(member.name) or not member.path.startswith(PACKAGES):
        return []
    expressions = (
        [member.returns, *(one.annotation for one in member.parameters)] if member.is_function else []
    )
    expressions += [member.annotation] if member.is_attribute else []
    found = [
        api.found(part)
        for expression in expressions
        if expression is not None and not isinstance(expression, str)
        for part in expression.iterate(flat=True)
    ]
    return [one for one in found if one is not None]

"""Links that send a signal when a person opens them: their stored data, and invalid links."""

from __future__ import annotations

from contextlib import closing

import attrs
import pytest

from firelock import ConfigurationError, Firelock
from firelock.flows.approval import ApprovalLink, find_approval, make_link

AT = "https://ops.example.com/jobs"


@pytest.fixture
def storage():
    with closing(Firelock("memory://")) as fire:
        yield fire.storage


def approval_of(storage, **changes):
    link = ApprovalLink(
        "job-1", "approval", {"Yes": "true", "No": "false"}, storage.clock() + 60_000_000, "Pay?"
    )
    return attrs.evolve(link, **changes)


def token_of(link):
    return link.rpartition("#")[2]


def test_link_token_finds_the_stored_approval(storage):
    approval = approval_of(storage, name="ada")
    link = make_link(storage, approval, at=f"{AT}/")
    assert link.startswith(f"{AT}/approval#")
    assert find_approval(storage, token_of(link)) == approval


def test_storage_does_not_contain_the_token(storage):
    token = token_of(make_link(storage, approval_of(storage), at=AT))
    (record,) = storage.list_records("approval")
    assert token not in record.key
    assert token not in record.value


def test_each_link_is_different(storage):
    link = approval_of(storage)
    assert make_link(storage, link, at=AT) != make_link(storage, link, at=AT)


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "a" * 44, "../settings", "\ud800" * 43])
def test_invalid_token_finds_no_approval(storage, token):
    assert find_approval(storage, token) is None


def test_expired_link_is_removed_when_the_next_is_created(storage):
    old = make_link(storage, approval_of(storage), at=AT)
    storage.clock_offset += 61_000_000
    assert find_approval(storage, token_of(old)) is None
    make_link(storage, approval_of(storage), at=AT)
    assert len(storage.list_records("approval")) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": {}}, "got 0 choices"),
        ({"choices": {str(number): "1" for number in range(21)}}, "got 21 choices"),
        ({"choices": {" ": "1"}}, "no label"),
        ({"choices": {"a\nb": "1"}}, "printable"),
        ({"question": "?" * 501}, "500"),
        ({"choices": {"a": "1" * 20_000}}, "16 KiB"),
    ],
)
def test_link_with_invalid_choices_or_question_raises(storage, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        make_link(storage, approval_of(storage, **changes), at=AT)
    assert storage.list_records("approval") == []


@pytest.mark.parametrize(
    "at", ["", "ops.example.com", "javascript:alert(1)", "https://a:b@c/", "https://a/?b=c", "http://a b"]
)
def test_link_at_an_invalid_dashboard_url_raises(storage, at):
    with pytest.raises(ConfigurationError, match="is not the URL of a dashboard"):
        make_link(storage, approval_of(storage), at=at)

"""Links with which a person sends a signal: the stored data of a link, and links that are refused."""

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
    asked = ApprovalLink(
        "job-1", "approval", {"Yes": "true", "No": "false"}, storage.clock() + 60_000_000, "Pay?"
    )
    return attrs.evolve(asked, **changes)


def token_of(link):
    return link.rpartition("#")[2]


def test_a_link_leads_to_what_it_asks(storage):
    asked = approval_of(storage, name="ada")
    link = make_link(storage, asked, at=f"{AT}/")
    assert link.startswith(f"{AT}/approval#")
    assert find_approval(storage, token_of(link)) == asked


def test_the_storage_holds_no_token(storage):
    token = token_of(make_link(storage, approval_of(storage), at=AT))
    (record,) = storage.list_records("approval")
    assert token not in record.key
    assert token not in record.value


def test_each_link_is_another(storage):
    asked = approval_of(storage)
    assert make_link(storage, asked, at=AT) != make_link(storage, asked, at=AT)


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "a" * 44, "../settings", "\ud800" * 43])
def test_what_is_no_token_asks_for_nothing(storage, token):
    assert find_approval(storage, token) is None


def test_an_expired_link_asks_for_nothing_and_goes_with_the_next_one(storage):
    old = make_link(storage, approval_of(storage), at=AT)
    storage.clock_offset += 61_000_000
    assert find_approval(storage, token_of(old)) is None
    make_link(storage, approval_of(storage), at=AT)
    assert len(storage.list_records("approval")) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choices": {}}, "got 0 choices"),
        ({"choices": {str(number): "1" for number in range(21)}}, "got 21 choices"),
        ({"choices": {" ": "1"}}, "no label"),
        ({"choices": {"a\nb": "1"}}, "printable"),
        ({"question": "?" * 501}, "500"),
        ({"choices": {"a": "1" * 20_000}}, "16 KiB"),
    ],
)
def test_a_link_that_cannot_be_shown_is_refused(storage, changes, said):
    with pytest.raises(ConfigurationError, match=said):
        make_link(storage, approval_of(storage, **changes), at=AT)
    assert storage.list_records("approval") == []


@pytest.mark.parametrize(
    "at", ["", "ops.example.com", "javascript:alert(1)", "https://a:b@c/", "https://a/?b=c", "http://a b"]
)
def test_an_address_of_no_dashboard_is_refused(storage, at):
    with pytest.raises(ConfigurationError, match="is not the URL of a dashboard"):
        make_link(storage, approval_of(storage), at=at)

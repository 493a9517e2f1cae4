"""Links with which a person answers a signal for one wait of a job; each has choices and an expiry time.

The storage contains only a hash of the token, along with the answers that the link may send. Therefore
someone who reads a backup cannot use the link, there is no secret key to store, and a link can be revoked by
deleting its record. The holder of a link may answer once, because the first answer to a signal wins. The link
does not give access to any other page.

The token is in the fragment of the link. Browsers do not send fragments to a server, so neither an access log
nor a `Referer` header contains the token. Earlier releases put the token in the path; such links work until
they expire.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from firelock.errors import ConfigurationError, StepError

if TYPE_CHECKING:
    from firelock.storage import Storage

APPROVAL = "approval"  # the kind of the records, and the path of the page
CHOICES_LIMIT = 20
TEXT_LIMIT = 500  # maximum number of characters in a question, a choice's label or a name
_VALUE_LIMIT = 16 * 1_024  # maximum total number of characters in the answers of a link
_PRUNED = 100  # maximum number of expired links that are deleted when a link is created
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


@attrs.frozen
class ApprovalLink:
    """The question of a link, and the answers that it may send."""

    job_id: str
    signal: str
    choices: Mapping[str, str]  # JSON of the answers, keyed by label
    expires_at: int
    question: str = ""  # the question for the person who decides
    name: str = ""  # the person for whom the link was made


def make_link(storage: Storage, approval: ApprovalLink, *, at: str) -> str:
    """Return the URL of a page with the question, which works until the approval expires.

    Args:
        storage: the storage of the job.
        approval: the question and its choices.
        at: the dashboard's URL for a browser, such as "https://ops.example.com/jobs".

    Raises:
        ConfigurationError: If `at` is not such a URL; there are no choices, or more than 20; a label, the
            question or the name is longer than 500 characters; or the values are larger than 16 KiB.
        StorageUnavailable: If the storage cannot be reached.
    """
    address = dashboard_address(at)
    _check(approval)
    for record in storage.due_records(APPROVAL, _PRUNED):
        storage.delete_record(APPROVAL, record.key)
    token = secrets.token_urlsafe(32)
    value = json.dumps(attrs.asdict(approval), ensure_ascii=False)
    storage.put_record(APPROVAL, _hash(token), value, expected_version=0, due_at=approval.expires_at)
    return f"{address}/{APPROVAL}#{token}"


def find_approval(storage: Storage, token: str) -> ApprovalLink | None:
    """Return the approval of the link with this token; None if no such link exists, or it has expired."""
    record = storage.get_record(APPROVAL, _hash(token)) if _TOKEN.match(token) else None
    if record is None:
        return None
    try:
        fields = json.loads(record.value)
        found = ApprovalLink(**{name: fields[name] for name in _FIELDS if name in fields})
    except (TypeError, ValueError) as error:
        raise StepError(
            "The question of this link cannot be read, because another release of Firelock wrote it."
        ) from error
    return None if found.expires_at <= storage.clock() else found


_FIELDS = tuple(attrs.fields_dict(ApprovalLink))


def _check(approval: ApprovalLink) -> None:
    labels = list(approval.choices)
    if not 1 <= len(labels) <= CHOICES_LIMIT:
        raise ConfigurationError(f"A link must have 1 to {CHOICES_LIMIT} choices, got {len(labels)} choices.")
    for text in (*labels, approval.question, approval.name):
        if not isinstance(text, str) or len(text) > TEXT_LIMIT or not text.isprintable():
            raise ConfigurationError(
                f"A text of a link must have at most {TEXT_LIMIT} printable characters, got {text!r}."
            )
    if not all(label.strip() for label in labels):
        raise ConfigurationError("A choice of a link has no label; pass the text of its button.")
    if sum(map(len, approval.choices.values())) > _VALUE_LIMIT:
        raise ConfigurationError(
            f"The values of a link's choices have more than {_VALUE_LIMIT // 1_024} KiB; send an id instead."
        )


def dashboard_address(at: str) -> str:
    """Return the URL of a dashboard for a browser, without a trailing slash.

    Raises:
        ConfigurationError: If `at` is not the URL of a dashboard.
    """
    try:
        parts = urlsplit(at)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        is_address = is_address and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        is_address = False
    if not is_address or not at.isprintable() or " " in at:
        raise ConfigurationError(
            f"{at!r} is not the URL of a dashboard; use for example http://127.0.0.1:8000/jobs."
        )
    return at.rstrip("/")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()

"""Secrets are masked in arguments, results and messages, in any format."""

from __future__ import annotations

import re
from contextlib import closing

import attrs
import pytest

from firelock import Firelock, Retry
from firelock.errors import ConfigurationError
from firelock.model import lifecycle
from firelock.storage import JobRecord, State
from firelock_dashboard import Access, Dashboard, Permission
from firelock_dashboard.security import redaction
from firelock_dashboard.security.links import COOKIE
from firelock_dashboard.security.redaction import MASK, Redactor
from firelock_dashboard.web.payloads import IN_DETAIL, IN_LISTS
from firelock_dashboard.web.routes import Route, Routes
from tests.core.fakes import Worker
from tests.dashboard import worker as dashboard_worker
from tests.dashboard.browser import Browser

CARD = "4111 1111 1111 1111"

redact, redact_text = Redactor().value, Redactor().text


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "PASSWORD", "db_password", "dbPassword", "dbpassword", "password2",
        "passwd", "pwd",
        "user_pass", "passphrase", "secret", "client_secret", "clientSecret", "secrets", "SECRET_KEY",
        "secretkey",
        "token", "access_token", "accessToken", "authtoken", "csrf-token", "tokens", "api_key", "apiKey",
        "APIKey",
        "apikey", "x-api-key", "X-Api-Key", "private_key", "accessKeyId", "encryption_key", "authorization",
        "Authorization", "proxy-authorization", "auth", "cookie", "Set-Cookie", "cookies", "credentials",
        "bearer",
        "card", "card_number", "cardNumber", "creditCard", "card.expiry", "cvv", "CVV2", "cvc", "ssn",
        "iban", "IBAN",
        "customer_iban", "pin", "otp", "jwt", "tax_id", "account_number", "passport_no", "connectionString",
        "\uff50\uff41\uff53\uff53word", " password ", "user[password]", "**password",
    ],
)  # fmt: skip
def test_value_with_a_sensitive_name_is_masked(name):
    """The name may be written in camel case, snake case or capitals, or be part of a longer name."""
    assert {name: MASK, "id": 5} == redact({name: "x", "id": 5})
    assert {name: MASK} == redact({name: {"deep": ["x"]}})


@pytest.mark.parametrize(
    "name",
    [
        "keyboard", "monkey", "key", "keys", "primary_key", "sort_key", "secretary", "author", "authors",
        "compass",
        "bypass", "pass_rate", "passenger", "token_count", "tokenizer", "card_id", "scorecard", "cardinal",
        "cookie_size",
        "account_id", "pinned", "spin", "pan_id", "company", "user", "email", "name", "id", "", "*args",
        "shipping",
    ],
)  # fmt: skip
def test_values_with_other_names_are_shown(name):
    """The value of "keyboard" is not masked, although the name contains "key"."""
    assert {name: "x"} == redact({name: "x"})


def test_booleans_none_and_counts_are_not_masked():
    """Booleans and None only show whether a secret exists, and a number of tokens is only a count."""
    value = {"password": None, "secret": True, "token": False, "max_tokens": 4096, "tokens": 1.5}

    assert value == redact(value)
    assert {"pin": MASK, "token": MASK} == redact({"pin": 1234, "token": 99})


def test_nested_values_are_masked_in_a_copy():
    """Lists, keyword arguments and nested objects are searched. The original value does not change."""
    value = {
        "a": [{"b": {"api_key": "x"}}, "y"],
        "**options": {"password": "p", "n": 1},
        "*args": [{"ssn": 1}],
    }

    assert {
        "a": [{"b": {"api_key": MASK}}, "y"], "**options": {"password": MASK, "n": 1},
        "*args": [{"ssn": MASK}],
    } == redact(value)  # fmt: skip
    assert "x" == value["a"][0]["b"]["api_key"]


def test_very_deep_value_is_masked():
    """A value that is nested deeper than any stored value is masked without an error."""
    value = []
    for _ in range(5_000):
        value = [value]

    assert MASK in str(redact(value))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://ops:hunter2@db/jobs does not answer", "hunter2"),
        ("redis://:hunter2@cache:6379/0", "hunter2"),
        ("see HTTPS://bob:hunter2@host/x", "hunter2"),
        ("Authorization: Basic aHVudGVyMjpodW50ZXI=", "aHVudGVy"),
        ("'authorization': 'Bearer hunter2hunter'", "hunter2"),
        ("curl -H 'authorization: token hunter2'", "hunter2"),
        ("sent Bearer hunter2.abc-def", "hunter2"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJ"),
        ("key AKIAABCDEFGHIJKLMNOP used", "AKIAABCDEFGHIJKLMNOP"),
        ("charge by sk_live_0123456789abcdef failed", "sk_live_0123456789abcdef"),
        ("push with ghp_0123456789abcdefghij", "ghp_0123"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEhunter2\nabc\n-----END RSA PRIVATE KEY-----", "hunter2"),
        ("password=hunter2", "hunter2"), ("login(user='bob', password='hunter 2')", "hunter 2"),
        ('{"user": "bob", "password": "hunter2"}', "hunter2"), ("{'api_key': 'hunter2', 'n': 1}", "hunter2"),
        ("?token=hunter2&page=2", "hunter2"),
        ("OSError: password=hunter2", "hunter2"),
        ("a=b=password=hunter2", "hunter2"), ("url: 'x?api_key=hunter2'", "hunter2"),
        ("client_secret: hunter2, x", "hunter2"),
        ('SECRET_KEY = "hunter2"', "hunter2"), ("password => 'hun\\'ter2'", "ter2"),
    ],
)  # fmt: skip
def test_credentials_are_masked_in_any_text(text, secret):
    """Credentials in URLs and headers, and keys in known formats, are masked.

    Values that follow a sensitive name are masked too.
    """
    assert secret in text
    assert secret not in redact_text(text)
    assert MASK in redact_text(text)
    assert secret not in str(redact({"note": text}))


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: no job 42 at https://example.com/a?page=2:3", "password = getpass()",
        "token = next(tokens)",
        "Bearer authentication failed", "Basic authentication is needed", "user: bob",
        "key=value; keyboard=x",
        "http://[::1]:8080/", "mail to bob@example.com: done", '  File "/app/token.py", line 5, in secret',
        "time 12:30:05, ratio 3:2", "", "password", "password:", "max_tokens: None", f"password={MASK}",
    ],
)  # fmt: skip
def test_ordinary_text_is_not_masked(text):
    """A traceback must stay readable, so code, file names, addresses and prose are not masked."""
    assert text == redact_text(text)


def test_masked_text_is_not_masked_again():
    text = "login(password='x', token=abc) at redis://:pw@h, Authorization: Bearer abcdefg1"

    assert redact_text(text) == redact_text(redact_text(text))


WORST = (
    "a", 'a="', "a:", "a://", "a://b:", "Bearer ", 'password="\\', "eyJaaaaaa.",
    "-----BEGIN PRIVATE KEY-----",
    "authorization=", "'authorization'   : '", "token=", "x" * 61 + ":", "sk_", "Basic a", "=>", "\\'",
    "_" * 50,
)  # fmt: skip


@pytest.mark.parametrize("piece", WORST)
def test_masking_is_fast_for_any_text(piece):
    """Masking 100 kB of the most difficult input takes much less time than the suite's time limit.

    The input is used as a value and as a name.
    """
    text = piece * (100_000 // len(piece))

    assert isinstance(redact_text(text), str)
    assert [text] == list(redact({text: 1}))


def test_every_repetition_in_a_pattern_is_bounded():
    """With bounded repetitions, the time of a search grows only linearly with the length of the text."""
    patterns = [one for one in vars(redaction).values() if isinstance(one, re.Pattern)]
    patterns += redaction._IN_TEXT  # noqa: SLF001 - the promise is about these patterns
    endless = [one.pattern for one in patterns if re.search(r"(?<!\\)[*+](?![^\[]*\])", one.pattern)]

    assert [redaction._BETWEEN.pattern] == endless  # noqa: SLF001 - one class, nothing after it


# ---- names that a dashboard adds -------------------------------------------------------------------------


def test_redact_list_applies_to_every_task():
    """Each name in the list matches in any spelling, but only as a whole."""
    redactor = Redactor(["diagnosis", "birth_date"])

    assert {"Diagnosis": MASK, "birthDate": MASK, "diagnosis_code": "x", "password": MASK} == redactor.value(
        {"Diagnosis": "x", "birthDate": "x", "diagnosis_code": "x", "password": "x"}
    )
    assert f"diagnosis={MASK}" == redactor.text("diagnosis=flu")


def test_redact_pattern_matches_names():
    """A custom pattern is searched for in the name as it is written."""
    redactor = Redactor(re.compile(r"^x_"))

    assert {"x_a": MASK, "a_x_": 1, "token": MASK} == redactor.value({"x_a": 1, "a_x_": 1, "token": "t"})


def test_redact_mapping_applies_by_task():
    """Names for one task do not apply to other tasks. Names for all tasks apply to every task."""
    redactor = Redactor({"billing.charge": ["amount"], "*": ["email"]})
    value = {"amount": 5, "email": "a@b"}

    assert {"amount": MASK, "email": MASK} == redactor.value(value, "billing.charge")
    assert {"amount": 5, "email": MASK} == redactor.value(value, "billing.refund")
    assert {"amount": 5, "email": MASK} == redactor.value(value)


@pytest.mark.parametrize("more", ["password", ["ok", 5], [""], {"task": "field"}, {"task": None}, 5, [None]])
def test_invalid_redact_raises_on_creation(more):
    """Creating the dashboard raises the error.

    Invalid values include a single name instead of a list, a number and None.
    """
    with closing(Firelock("memory://")) as fire, pytest.raises(ConfigurationError, match="redact="):
        Dashboard(fire, redact=more)


# ---- values on pages -------------------------------------------------------------------------------------


@pytest.fixture
def shown(fire):
    """Return what a visitor sees of a record's arguments and result: `shown(record)`."""
    seen = []

    def redacted(record, *, permissions=frozenset(Permission), limit=IN_DETAIL, **options):
        dashboard = Dashboard(fire, auth=lambda _: Access(frozenset(permissions)), **options)

        def view(visit):
            seen[:] = [visit.arguments(record, limit=limit), visit.result(record, limit=limit)]
            return visit.json({})

        dashboard.routes = Routes([Route("GET", "/look", Permission.READ, view)])
        with closing(Browser(dashboard)) as browser:
            assert 200 == browser.get("/look").status
        return seen

    return redacted


def record_of(arguments, **changes):
    record = JobRecord("1", "charge", arguments, "json", State.SUCCEEDED, "default", 0, 0)
    return attrs.evolve(record, **changes)


CHARGE = '{"order":42,"password":"hunter2"}'


def test_arguments_are_shown_by_name_and_masked(fire, shown):
    """Positional arguments are masked too, because the storage contains their names."""

    @fire.task(name="charge")
    def charge(order: int, password: str, *more: int, **options: str) -> None: ...

    record = fire.storage.get((charge.enqueue(42, "hunter2", 5, api_key="hunter2").id,))[0]
    arguments, result = shown(attrs.evolve(record, result='{"token":"hunter2","n":1}'))

    assert {"order": 42, "password": MASK, "*more": [5], "**options": {"api_key": MASK}} == arguments.value
    assert {"token": MASK, "n": 1} == result.value
    assert "hunter2" not in arguments.text + arguments.line + result.text + result.line
    assert (None, False, False) == (arguments.reason, arguments.is_hidden, arguments.is_cut)


def test_redact_option_applies_to_pages(shown):
    """Pages mask values with the names that `redact=` contains for the task of the record."""
    record = record_of(CHARGE)

    assert MASK == shown(record, redact={"charge": ["order"]})[0].value["order"]
    assert 42 == shown(record, redact={"other": ["order"]})[0].value["order"]


@pytest.mark.parametrize(
    "stored",
    ["{", "", "not json", '{"a": NaN}', '{"a":1,"a":2}', "[" * 10_000, "\x00", "\ud800", b"bytes", None, 5],
    ids=lambda stored: ascii(stored)[:20],
)
def test_unreadable_value_is_shown_raw_with_the_reason(shown, stored):
    """A page shows any stored value as a string."""
    arguments, _ = shown(record_of(stored))

    assert isinstance(arguments.text, str)
    if stored == 5:  # a string that happens to be JSON
        assert arguments.reason is None
    else:
        assert "cannot be read" in arguments.reason
        assert arguments.value is None


def test_raw_text_is_masked_with_the_names_of_its_task(shown):
    """Names in `redact=` for one task apply to its damaged arguments, but not to those of other tasks."""
    damaged = record_of('{"diagnosis": "flu", "n": ')
    named = {"charge": ["diagnosis"]}

    assert "flu" not in shown(damaged, redact=named)[0].text
    assert "flu" in shown(attrs.evolve(damaged, task="other"), redact=named)[0].text


def test_unknown_serializer_is_named(shown):
    """A value of an unknown serializer is not parsed, and is shown with the name of the serializer."""
    arguments, _ = shown(record_of("AbC=", serializer="sealed"))

    assert ("AbC=", None) == (arguments.text, arguments.value)
    assert "'sealed'" in arguments.reason


def test_large_values_are_truncated_with_a_note(shown):
    """The limit is 4 KiB in lists and 64 KiB on detail pages. A download contains the whole value."""
    record = record_of('{"note":"' + "y" * 100_000 + '"}')

    for limit in (IN_LISTS, IN_DETAIL):
        arguments, _ = shown(record, limit=limit)
        assert (limit, limit, True) == (len(arguments.text), len(arguments.line), arguments.is_cut)
        assert arguments.size > 100_000
    whole, _ = shown(record, limit=None)
    assert (False, whole.size) == (whole.is_cut, len(whole.text))


@pytest.mark.parametrize("target", ["/", "/queues", "/settings", "/api/jobs", "/nothing"])
@pytest.mark.parametrize("auth", [None, lambda _: "admin"], ids=["link", "auth"])
def test_no_response_contains_the_storage_password(target, auth):
    """The password is in neither the URL in the footer nor the message about an outage."""
    with (
        closing(Firelock("redis://ops:hunter2@127.0.0.1:1/0")) as fire,
        closing(Browser(Dashboard(fire, auth=auth), is_in=False)) as browser,
    ):
        browser.cookies = {f"{COOKIE}_80": "A" * 43}  # a session that must be looked up if there is no auth

        answer = browser.get(target)

        assert answer.status in {404, 503}
        assert "hunter2" not in answer.text


def test_actions_and_searches_do_not_match_masked_values(fire):
    """Otherwise, the number of matching jobs would reveal a secret guess by guess."""

    @fire.task(name="shop.login", retry=Retry.never())
    def login(password: str, note: str) -> None:
        raise ValueError(f"password={password}")

    login.enqueue("hunter2", "hunting")
    Worker(fire).run()
    with closing(Dashboard(fire)) as dashboard, closing(Browser(dashboard)) as client:
        for wanted in ({"argument": "hunter2"}, {"error": "password=hunter2"}):
            client.act("/api/operations", {"verb": "delete", "state": "failed", **wanted})
        for wanted in ("arg=hunter2", "error=password%3Dhunter2"):
            client.act(f"/jobs/all/delete?state=failed&{wanted}")
        dashboard.runner.join(20)
        found = client.get("/jobs?state=failed&error=password%3Dhunter2").text
        left = fire.jobs.counts().failed
        met = {(one.changed, one.skipped) for one in fire.operations.list()}
        client.act("/api/operations", {"verb": "delete", "state": "failed", "argument": "hunting"})
        dashboard.runner.join(20)

    assert {(0, 0)} == met
    assert 1 == left
    assert '<tr id="job-' not in found
    assert 0 == fire.jobs.counts().failed


def test_card_number_in_text_is_neither_shown_nor_searchable(fire):
    """No page, API response, download, export or form of a new run shows a card number.

    Searches for parts of the number find nothing.
    """

    @fire.task(name="shop.note", retry=Retry.never())
    def note(text: str, number: int) -> None:
        raise ValueError(f"refused: {text}")

    job = note.using(meta={"said": CARD}).enqueue(f"my card is {CARD}", int(CARD.replace(" ", "")))
    Worker(fire).run()
    shown = [
        "/jobs", "/jobs?state=failed", f"/jobs/{job.id}", f"/jobs/{job.id}/arguments", f"/api/jobs/{job.id}",
        "/api/jobs?state=failed", "/jobs/export?format=csv", "/jobs/export?format=ndjson", "/failures",
        "/api/failures", "/",
        f"/tasks/run?name=shop.note&from={job.id}", "/tasks/view?name=shop.note", "/search?q=card",
    ]  # fmt: skip
    with closing(Dashboard(fire)) as dashboard, closing(Browser(dashboard)) as client:
        answers = {address: client.get(address) for address in shown}
        found = [
            client.get(f"/jobs?state=failed&{field}={text}").text
            for field in ("arg", "error")
            for text in ("4111", "4111+1111+1111+1111", "4111111111111111", "1111+1111")
        ]
        for wanted in ({"argument": "4111"}, {"error": "4111 1111"}, {"argument": "4111111111111111"}):
            client.act("/api/operations", {"verb": "delete", "state": "failed", **wanted})
        dashboard.runner.join(20)

    assert {200} == {answer.status for answer in answers.values()}
    assert [] == [
        address for address, answer in answers.items() if CARD in answer.text or "4111111" in answer.text
    ]
    assert sum("my card is" in answer.text and MASK in answer.text for answer in answers.values()) > 5
    assert not any('<tr id="job-' in page for page in found)
    assert {(0, 0)} == {(one.changed, one.skipped) for one in fire.operations.list()}


def test_reason_of_a_recurring_job_s_run_is_masked(fire):
    """The list of the last runs contains the reasons for their states, which may contain error messages."""

    @fire.task(name="shop.sync")
    def sync() -> None:
        """Never run here."""

    fire.recurring.create("shop.sync", "nightly", "0 2 * * *", {})
    fire.recurring.trigger("nightly")
    worker = dashboard_worker.Worker(fire)
    job, reason = worker.claim(), f"password=hunter2 card {CARD}"
    snoozed = lifecycle.snoozed(
        job, worker.holder, at=fire.storage.clock(), started_at=job.claimed_at, wait=1_000_000, reason=reason
    )
    fire.storage.apply([snoozed])
    with closing(Dashboard(fire)) as dashboard, closing(Browser(dashboard)) as client:
        page = client.get("/recurring/view?id=nightly")

    assert page.status == 200
    assert f"password={MASK} card {MASK}" in page.text

"""`fire.limits`: keys with their holders and waiting jobs, values from code and operators, and pauses."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest

from firelock import ConfigurationError, Firelock, JobNotFound, Limit, LimitState, UnsupportedFeature
from firelock.control.catalogue import publish_tasks
from firelock.control.limits import DeclaredLimit, Limits
from firelock.limits import LimitSettings
from firelock.model import lifecycle
from firelock.model.clock import micros
from firelock.model.report import DURATION_BUCKETS
from firelock.model.session import ClaimHolder
from firelock.storage import ClaimRequest, Feature, KeyState, NewSession, Rollup
from firelock.storage.memory import MemoryStorage

MINUTE = 60_000_000
BUCKETS = (0,) * (len(DURATION_BUCKETS) + 1)


class KeyedStorage(MemoryStorage):
    """The storage in memory, with the keys that a test sets."""

    def __init__(self):
        super().__init__("")
        self.features = {*self.features, Feature.LIMITS, Feature.UNIQUE}
        self.keys = []
        self.spent = []

    def hold(self, key, *holders, waiting=0, next_arrival_at=0):
        """Add a key that these jobs hold."""
        self.keys.append(KeyState(key, holders, len(holders), waiting, next_arrival_at))

    def find_keys(self, prefix="", *, after="", limit=100):
        found = sorted(self.keys, key=lambda state: state.key)
        return [one for one in found if one.key.startswith(prefix) and one.key > after][:limit]

    def spend(self, key, *, cost=0, until=None):
        self.spent.append((key, cost, until))
        return self.clock() + 2_500_000


@pytest.fixture
def fire():
    """An app on such a storage."""
    with Firelock(KeyedStorage()) as fire:
        yield fire


def declaring(fire, **settings):
    """Return the limits of an app whose code declares these values for each name."""
    declared = {
        name: DeclaredLimit(name, f"{name}:{{id}}", LimitSettings(**given))
        for name, given in settings.items()
    }
    return Limits(fire.client, lambda: declared)


def audited(fire):
    """Return the entries of the audit, oldest first."""
    return [(one.action, one.target, one.by, one.origin) for one in reversed(list(fire.audit.list()))]


# ---- reading ---------------------------------------------------------------------------------------------


def test_key_shows_its_holders_and_the_source_of_its_values(fire):
    """The result also contains the waiting jobs and the values of the name.

    If a rate delays the next start, the result contains the time of this start.
    """
    now = fire.storage.clock()
    fire.storage.hold("tenant:7", "a", "b", waiting=5, next_arrival_at=now + MINUTE)
    limits = declaring(fire, tenant={"concurrent": 2, "rate": 60, "per": MINUTE})
    limits.sync()

    (view,) = limits.list()

    assert ("tenant:7", "tenant", 2, ("a", "b"), 5) == (
        view.key, view.name, view.running, view.holders, view.waiting,
    )  # fmt: skip
    assert (2, 60, timedelta(seconds=60), None) == (view.concurrent, view.rate, view.per, view.burst)
    assert ("code", False, True) == (view.source, view.is_own, view.is_full)
    assert "2 at once, 60 per 60 s" == view.words
    assert view.opens_at is not None
    assert view == limits.get("tenant:7")


def test_key_without_values_is_used_only_for_turns(fire):
    """Such a key has no limit and never blocks a job."""
    fire.storage.hold("shop:1", "a")

    (view,) = fire.limits.list()

    assert ("none", "turns", False, None) == (view.source, view.words, view.is_full, view.opens_at)


def test_pages_of_keys_include_keys_that_have_only_values(fire):
    """The list contains each key that is in use and each key with its own values or pause once, in order.

    It does not contain names.
    """
    for key in ("tenant:1", "tenant:3", "tenant:5"):
        fire.storage.hold(key)
    fire.limits.set("tenant:2", concurrent=1)
    fire.limits.set("tenant:3", concurrent=1)
    fire.limits.pause("tenant:4")
    fire.limits.set("other:1", concurrent=1)
    declaring(fire, tenant={"concurrent": 9}).sync()

    first = fire.limits.list("tenant:", limit=2)
    second = fire.limits.list("tenant:", after=first[-1].key, limit=2)
    third = asyncio.run(fire.limits.alist("tenant:", second[-1].key, 2))

    assert ["tenant:1", "tenant:2"] == [view.key for view in first]
    assert ["tenant:3", "tenant:4"] == [view.key for view in second]
    assert ["tenant:5"] == [view.key for view in third]


def test_declared_names_are_shown_before_they_have_a_key(fire):
    """Limits that the code declares appear with their templates as soon as the first server has started."""
    declaring(fire, tenant={"concurrent": 4}, api={"rate": 90, "per": MINUTE, "burst": 5}).sync()

    api, tenant = fire.limits.names()

    assert ("api", "api:{id}", "90 per 60 s, 5 in a burst") == (api.name, api.template, api.words)
    assert ("tenant", "4 at once", "code") == (tenant.name, tenant.words, tenant.source)


def test_unused_key_shows_the_values_of_its_name(fire):
    """A key that no job has used has no running jobs and no waiting jobs."""
    fire.limits.set("tenant", concurrent=3)

    view = asyncio.run(fire.limits.aget("tenant:42"))

    assert (0, 0, (), 3) == (view.running, view.waiting, view.holders, view.concurrent)
    assert "operator" == view.source


# ---- values ----------------------------------------------------------------------------------------------


def test_value_set_by_an_operator_is_kept_until_the_code_changes(fire):
    """A starting server writes the code's values only if they have changed."""
    declaring(fire, tenant={"concurrent": 4}).sync()
    fire.limits.set("tenant", concurrent=9)

    again = declaring(fire, tenant={"concurrent": 4}).sync()
    kept = fire.limits.get("tenant")
    changed = declaring(fire, tenant={"concurrent": 5}).sync()

    assert ([], 9, 4) == (again, kept.concurrent, kept.code.concurrent)
    assert (["tenant"], 5, "code") == (
        changed, fire.limits.get("tenant").concurrent, fire.limits.get("tenant").source,
    )  # fmt: skip


def test_value_set_before_its_declaration_is_kept(fire):
    """A reset restores the code's values."""
    fire.limits.set("tenant", concurrent=9)

    declaring(fire, tenant={"concurrent": 4}).sync()

    assert (9, "operator") == (fire.limits.get("tenant").concurrent, fire.limits.get("tenant").source)
    assert 4 == fire.limits.reset("tenant").concurrent


def test_server_logs_the_written_limits_in_one_line(fire, caplog):
    """The line contains the names of all written limits. Nothing is logged if nothing has changed."""
    caplog.set_level(logging.INFO, "firelock.control.limits")

    declaring(fire, a={"concurrent": 1}, b={"concurrent": 2}).sync()
    declaring(fire, a={"concurrent": 1}, b={"concurrent": 2}).sync()

    assert ["Stored the settings of limits from the code: a, b."] == caplog.messages


def test_limit_without_values_has_no_record(fire):
    """If the code previously declared values, they are removed."""
    turns = declaring(fire, tenant={})
    before = (turns.sync(), fire.limits.names())
    declaring(fire, tenant={"concurrent": 4}).sync()

    after = turns.sync()

    assert ([], []) == before
    assert (["tenant"], "none", "turns") == (
        after, fire.limits.get("tenant").source, fire.limits.get("tenant").words,
    )  # fmt: skip


def test_set_keeps_omitted_values(fire):
    """For a key without its own values, omitted values are those of its name. None removes a value."""
    declaring(fire, tenant={"concurrent": 4, "rate": 10, "per": MINUTE, "burst": 3}).sync()

    own = fire.limits.set("tenant:7", rate=20)
    less = fire.limits.set("tenant:7", concurrent=None, burst=None, per=timedelta(seconds=1.5))

    assert (True, "4 at once, 20 per 60 s, 3 in a burst") == (own.is_own, own.words)
    assert "20 per 1.5 s" == less.words
    assert "4 at once, 10 per 60 s, 3 in a burst" == fire.limits.get("tenant:8").words


def test_reset_restores_the_values_of_the_code(fire):
    """The record of a key is deleted, and a name gets the values from the code. A pause is kept."""
    declaring(fire, tenant={"concurrent": 4}).sync()
    fire.limits.set("tenant", concurrent=9)
    fire.limits.set("tenant:7", concurrent=1)
    fire.limits.pause("tenant", "moving")

    key, name = fire.limits.reset("tenant:7"), fire.limits.reset("tenant")

    assert (False, 9) == (key.is_own, key.concurrent)
    assert (4, "code", True, "moving") == (name.concurrent, name.source, name.is_paused, name.note)
    assert ["tenant"] == [record.key for record in fire.storage.list_records("limit")]


def test_pause_of_a_name_applies_to_all_its_keys(fire):
    """The pause, with its note and actor, is shown on each key, but can be removed only for the name."""
    fire.limits.pause("tenant", "provider is down", by="ada")

    paused = fire.limits.get("tenant:7")
    fire.limits.resume("tenant:7")
    still = fire.limits.get("tenant:7")
    fire.limits.resume("tenant")

    assert (True, "provider is down", "ada") == (paused.is_paused, paused.note, paused.paused_by)
    assert paused.paused_at is not None
    assert (True, False) == (still.is_paused, fire.limits.get("tenant:7").is_paused)
    assert [] == fire.storage.list_records("limit")


def test_audit_contains_only_calls_that_changed_something(fire):
    """An entry contains the actor, the origin, and the values before and after the change."""
    before = fire.limits.get("tenant").words
    fire.limits.set("tenant", concurrent=2, by="ada", origin="dashboard")
    fire.limits.pause("tenant", "why", by="bob", origin="cli")
    fire.limits.resume("tenant")
    fire.limits.resume("tenant")
    fire.limits.reset("tenant")
    fire.limits.reset("tenant")

    assert [
        ("limit.set", "tenant", "ada", "dashboard"), ("limit.pause", "tenant", "bob", "cli"),
        ("limit.resume", "tenant", "operator", "code"), ("limit.reset", "tenant", "operator", "code"),
    ] == audited(fire)  # fmt: skip
    first = list(fire.audit.list())[-1]
    settings = {"concurrent": 2, "rate": None, "per": 1_000_000, "burst": None}
    assert {**settings, "before": before, "after": "2 at once"} == first.detail
    assert {"before": "2 at once", "after": before} == fire.audit.list().entries[0].detail


def test_spend_charges_the_rate_and_returns_the_wait(fire):
    """A negative cost is a refund. The wait is in seconds and never below zero."""
    seconds = fire.limits.spend("api:7", 350)
    asyncio.run(fire.limits.aspend("api:7", -20))

    assert [("api:7", 350, None), ("api:7", -20, None)] == fire.storage.spent
    assert 0 <= seconds <= 2.5


# ---- invalid input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"concurrent": -1}, "concurrent must be .* got -1"),
        ({"concurrent": 1_001}, "an integer from 0 to 1,000, got 1001"),
        ({"concurrent": True}, "concurrent must be .* got True"),
        ({"concurrent": 1.5}, "concurrent must be .* got 1.5"),
        ({"rate": -1, "per": 1}, "rate must be .* got -1"),
        ({"rate": 5, "per": 0}, "per must be .* got 0"),
        ({"rate": 5, "per": timedelta(-1)}, "above zero"),
        ({"rate": 5, "per": "1m"}, "per must be .* got '1m'"),
        ({"rate": 5, "burst": 0}, "burst must be .* got 0"),
        ({"per": 60}, "has per= but no rate"),
        ({"burst": 5}, "has burst= but no rate"),
        ({}, "No settings are given"),
    ],
    ids=str,
)
def test_invalid_value_raises_one_error_and_stores_nothing(fire, given, message):
    """The error contains the problem, the value and the fix."""
    with pytest.raises(ConfigurationError, match=message):
        fire.limits.set("tenant", **given)

    assert ([], []) == (fire.storage.list_records("limit"), audited(fire))


@pytest.mark.parametrize("key", ["", "a\nb", 7, "x" * 201, None], ids=repr)
def test_every_method_refuses_an_invalid_key(fire, key):
    """Each method raises the same error and stores nothing."""
    limits = fire.limits
    for verb in (
        limits.get, limits.reset, limits.pause, limits.resume, lambda key: limits.set(key, concurrent=1),
        lambda key: limits.spend(key, 1),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match="A limit key must have"):
            verb(key)
    assert [] == fire.storage.list_records("limit")


def test_value_of_a_key_cannot_be_removed_by_none(fire):
    """If the value were removed, the value of the name would apply to the key.

    The error states what to do instead.
    """
    fire.limits.set("tenant", concurrent=2)

    with pytest.raises(ConfigurationError, match="Use reset"):
        fire.limits.set("tenant:7", concurrent=None)


@pytest.mark.parametrize("cost", [1.5, True, "3", 10**10], ids=repr)
def test_cost_must_be_an_integer(fire, cost):
    """An invalid cost does not charge the rate."""
    with pytest.raises(ConfigurationError, match="cost must be"):
        fire.limits.spend("api:7", cost)

    assert [] == fire.storage.spent


@pytest.mark.parametrize("note", [None, 3, "x" * 501], ids=["none", "number", "long"])
def test_note_must_be_a_short_string(fire, note):
    with pytest.raises(ConfigurationError, match="note must be"):
        fire.limits.pause("tenant", note)


@pytest.mark.parametrize("limit", [0, 501, True])
def test_page_limit_of_keys_must_be_from_1_to_500(fire, limit):
    with pytest.raises(ConfigurationError, match="keys"):
        fire.limits.list(limit=limit)


def test_storage_without_limits_raises_an_error():
    """If the storage does not support limits, nothing is written, not even when a server starts."""
    storage = KeyedStorage()
    storage.features = storage.features - {Feature.LIMITS}
    with Firelock(storage) as fire:
        for verb in (fire.limits.pause, fire.limits.resume, fire.limits.reset):
            with pytest.raises(UnsupportedFeature, match="does not support limits"):
                verb("tenant")

        assert [] == declaring(fire, tenant={"concurrent": 1}).sync()
        assert [] == storage.list_records("limit")


@pytest.mark.parametrize("verb", ["get", "set", "reset", "pause", "resume", "spend"])
def test_error_about_a_template_as_a_key_shows_valid_keys(fire, verb):
    """A template from the code, or an f-string without its `f`, would create a key that no job uses."""
    more = {"set": {"concurrent": 1}, "spend": {"cost": 1}}.get(verb, {})

    with pytest.raises(ConfigurationError, match=r"pass 'tenant/api' for all of them, or .* 'tenant:7/api'"):
        getattr(fire.limits, verb)("tenant:{tenant_id}/api", **more)

    assert [] == fire.storage.list_records("limit")


def test_key_with_its_own_values_shows_the_template_of_its_name(fire):
    """Such a key still belongs to the limit that the code declared."""
    limits = declaring(fire, tenant={"concurrent": 4})
    limits.sync()
    limits.set("tenant:7", concurrent=1)

    assert "tenant:{id}" == limits.get("tenant:7").template
    assert (True, False) == (limits.get("tenant").is_name, limits.get("tenant:7").is_name)


# ---- waiting jobs ------------------------------------------------------------------------------------------


@pytest.fixture
def shop():
    """An app on a storage in memory."""
    with Firelock("memory://") as fire:
        yield fire


def described(fire, count=12):
    """Enqueue jobs of three customers that share a rate of one per ten seconds, and return them.

    The first one was claimed and has ended.
    """

    @fire.task(
        name="describe",
        limits=[Limit("openai", rate=6, per=60, burst=1), Limit("customer:{customer}", concurrent=1)],
    )
    def describe(customer: int, number: int) -> None: ...

    fire.limits.sync()
    jobs = describe.enqueue_many([(number % 3, number) for number in range(count)])
    (running,) = take(fire, 1)
    fire.storage.apply(
        [
            lifecycle.succeeded(
                running, ClaimHolder("one", "web"), at=fire.storage.clock(), started_at=fire.storage.clock(),
                result="1", result_absent=None, expires_at=None,
            )
        ]
    )  # fmt: skip
    return jobs


def take(fire, count):
    storage = fire.storage
    storage.begin_session(NewSession("one", "web", "web", "host", 7, 0, 3_600.0, 10))
    return storage.claim(ClaimRequest(None, count, "one", storage.clock())).jobs


def test_key_below_its_limit_names_the_key_that_blocks_its_jobs(shop):
    """If no other key blocks the jobs, they wait for a worker."""
    jobs = described(shop)

    views = {view.key: view for view in shop.limits.list()}
    alone = shop.limits.get("customer:1")

    assert {"openai": LimitState.RATE} | dict.fromkeys(
        ("customer:0", "customer:1", "customer:2"), LimitState.HELD
    ) == {key: view.state for key, view in views.items()}
    assert [("openai",)] * 3 == [views[f"customer:{number}"].held_by for number in range(3)]
    assert (LimitState.HELD, ("openai",)) == (alone.state, alone.held_by)
    shop.limits.set("openai", rate=None, concurrent=100)
    assert {LimitState.WAITING} == {view.state for view in shop.limits.list()}
    shop.jobs.delete([job.id for job in jobs])
    assert LimitState.OPEN is shop.limits.get("openai").state


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda fire: fire.limits.pause("gpu"), LimitState.PAUSED),
        (lambda fire: fire.limits.set("gpu", concurrent=0), LimitState.CLOSED),
        (lambda fire: fire.limits.set("gpu", concurrent=1), LimitState.FULL),
        (lambda fire: fire.limits.set("gpu", concurrent=9), LimitState.WAITING),
        (lambda fire: fire.storage.spend("gpu", until=fire.storage.clock() + MINUTE), LimitState.BLOCKED),
    ],
)
def test_key_shows_why_it_allows_no_job(shop, change, state):
    """The key is paused, has a limit of 0, is at its limit, or allows no start until a given time.

    Jobs of a key below its limit wait for a worker.
    """

    @shop.task(name="train", limits=[Limit("gpu", concurrent=1)])
    def train(number: int) -> None: ...

    shop.limits.sync()
    train.enqueue_many([(1,), (2,)])
    take(shop, 1)

    change(shop)

    assert state is shop.limits.get("gpu").state


def test_line_shows_waiting_jobs_with_reasons_and_estimates(shop):
    """The line contains the jobs in the order of their turns.

    For each job, it lists the keys that block the job and the start time that is estimated from the rate.
    """
    described(shop)
    now = shop.client.clock.now()

    first = shop.limits.line("openai", limit=6)
    second = shop.limits.line("openai", first.after, limit=6)

    assert ([*range(6)], [*range(6, 11)]) == tuple(
        [one.place for one in page.jobs] for page in (first, second)
    )
    assert (6, None) == (first.after, second.after)
    assert [["openai"]] * 6 == [[wait.key for wait in one.waits] for one in first.jobs]
    waits = [round(micros(one.starts_at) - now, -6) for one in (*first.jobs, *second.jobs)]
    assert [10_000_000 * place for place in range(1, 12)] == waits


def test_line_counts_earlier_jobs_under_a_shared_key(shop):
    """All customers share one rate, so a customer's jobs also wait for earlier jobs of other customers."""
    described(shop)
    now = shop.client.clock.now()

    line = shop.limits.line("customer:1")

    places = [shop.limits.places(one.job.id)[0].ahead for one in line.jobs]
    waits = [round((micros(one.starts_at) - now) / 10_000_000) for one in line.jobs]
    assert 4 == len(places)
    # the positions between them are approximate
    assert (1 + places[0], 1 + places[-1]) == (waits[0], waits[-1])
    assert all(abs(1 + place - wait) <= 1 for place, wait in zip(places, waits, strict=True))


def test_jobs_blocked_by_another_key_have_no_turn(shop):
    """While the key is below its limit, the turns and estimates of its other jobs ignore the blocked jobs."""

    @shop.task(
        name="ask",
        limits=[Limit("model", rate=6, per=60, burst=2), Limit("customer:{customer}", concurrent=1)],
    )
    def ask(customer: int) -> None: ...

    shop.limits.sync()
    ask.enqueue(1)
    take(shop, 1)
    ask.enqueue_many([(1,), (2,), (1,), (3,)])

    line = shop.limits.line("model")

    turns = {one.job.arguments: one.turn for one in line.jobs if one.turn is not None}
    assert [0, 1] == list(turns.values())
    assert all("1" not in arguments for arguments in turns)
    assert [0, 1, 2, 3] == [one.place for one in line.jobs]
    starts = [micros(one.starts_at) for one in line.jobs if one.turn is not None]
    assert 10_000_000 == round(starts[1] - starts[0], -6)


def test_job_that_is_also_blocked_by_a_full_key_keeps_its_turn(shop):
    """Other jobs cannot overtake the job while its key is at its limit.

    Each line lists all keys that block the job.
    """

    @shop.task(name="ask", limits=[Limit("model", concurrent=2), Limit("customer:{customer}", concurrent=1)])
    def ask(customer: int) -> None: ...

    shop.limits.sync()
    ask.enqueue_many([(1,), (2,)])
    take(shop, 2)
    jobs = ask.enqueue_many([(1,), (1,), (3,)])

    line, own = shop.limits.line("model"), shop.limits.line("customer:1")

    assert [jobs[0].id, jobs[2].id, jobs[1].id] == [one.job.id for one in line.jobs]
    assert ([0, 1, 2], [0, 1]) == tuple([one.turn for one in page.jobs] for page in (line, own))
    assert [["model", "customer:1"], ["model"], ["model", "customer:1"]] == [
        [wait.key for wait in one.waits] for one in line.jobs
    ]
    assert [["model", "customer:1"]] * 2 == [[wait.key for wait in one.waits] for one in own.jobs]
    assert [("customer:1",), (), ("customer:1",)] == [one.blocked_by for one in line.jobs]
    assert [("model",)] * 2 == [one.blocked_by for one in own.jobs]
    shop.limits.set("model", concurrent=3)
    (passed, first, _) = shop.limits.line("model").jobs
    assert (None, ["customer:1"]) == (passed.turn, [wait.key for wait in passed.waits])
    assert (0, []) == (first.turn, list(first.waits))


def test_timeouts_limit_the_start_without_an_estimate(shop):
    """Without an estimate, the timeout of the job or its task gives an upper bound for the start.

    The task's timeout is read from the code or from the report of a server. Without a timeout, there is no
    bound.
    """

    @shop.task(name="train", timeout=3_600, limits=[Limit("gpu", concurrent=2)])
    def train(number: int) -> None: ...

    shop.limits.sync()
    jobs = train.enqueue_many([(number,) for number in range(6)])
    take(shop, 2)

    def hours(app):
        now = app.client.clock.now()
        line = [round((micros(one.starts_by) - now) / (60 * MINUTE)) for one in app.limits.line("gpu").jobs]
        return [*line, round((micros(app.limits.places(jobs[4].id)[0].starts_by) - now) / (60 * MINUTE))]

    other = Firelock(shop.storage)
    assert [None] * 4 == [one.starts_by for one in other.limits.line("gpu").jobs]
    publish_tasks(shop.client)
    assert [1, 1, 2, 2, 2] == hours(shop) == hours(other)
    minute = shop.client.clock.now() // MINUTE * MINUTE
    shop.storage.record_metrics([Rollup(minute, "train", "default", "succeeded", 2, 2 * MINUTE, BUCKETS)])
    assert [None] * 4 == [one.starts_by for one in shop.limits.line("gpu").jobs]
    assert shop.limits.places(jobs[4].id)[0].starts_by is None


def test_bound_of_a_start_includes_the_previous_job_under_each_key(shop):
    """The last two jobs of one customer run one after the other, even if the shared key allows more jobs."""

    @shop.task(
        name="ask",
        timeout=7_200,
        limits=[Limit("model", concurrent=3), Limit("customer:{customer}", concurrent=1)],
    )
    def ask(customer: int) -> None: ...

    shop.limits.sync()
    ask.enqueue_many([(1,), (2,), (3,)])
    take(shop, 3)
    jobs = ask.enqueue_many([(customer,) for customer in (10, 11, 12, 13, 14, 15, 12, 12)])
    now = shop.client.clock.now()

    def hours(jobs):
        return [round((micros(one.starts_by) - now) / (60 * MINUTE)) for one in jobs]

    line = shop.limits.line("model").jobs
    second = shop.limits.line("model", 7).jobs
    own = shop.limits.line("customer:12").jobs
    places = shop.limits.places(jobs[7].id)

    assert [jobs[6].id, jobs[7].id] == [one.job.id for one in line[-2:]]
    assert [2, 2, 2, 4, 4, 4, 6, 8] == hours(line)
    assert [8] == hours(second)
    assert hours([line[2], *line[-2:]]) == hours(own)
    assert 8 == max(hours(places))


def test_jobs_after_a_job_without_a_bound_have_none(shop):
    """A job whose start time is unknown may use a key that later jobs share."""

    @shop.task(name="ask", limits=[Limit("model", concurrent=1), Limit("customer:{customer}", concurrent=1)])
    def ask(customer: int) -> None: ...

    shop.limits.sync()
    bounded = ask.using(timeout=60)
    bounded.enqueue(1)
    take(shop, 1)
    bounded.enqueue(2)
    known = shop.limits.line("customer:2").jobs[0].starts_by
    ask.enqueue(2)

    assert known is not None
    assert [None, None] == [one.starts_by for one in shop.limits.line("customer:2").jobs]


def test_start_has_no_bound_if_an_earlier_job_has_no_timeout(shop):
    """The timeout of a single call counts as well."""

    @shop.task(name="train", limits=[Limit("gpu", concurrent=1)])
    def train(number: int) -> None: ...

    shop.limits.sync()
    bounded = train.using(timeout=60)
    bounded.enqueue(1)
    take(shop, 1)
    bounded.enqueue(2)
    known = shop.limits.line("gpu").jobs[0].starts_by
    train.enqueue(3)

    assert known is not None
    assert [None, None] == [one.starts_by for one in shop.limits.line("gpu").jobs]


def test_recent_run_times_provide_the_estimate_for_a_full_key(shop):
    """With a limit of two and runs of one minute, the third waiting job starts after a minute and a half."""

    @shop.task(name="train", limits=[Limit("gpu", concurrent=2)])
    def train(number: int) -> None: ...

    shop.limits.sync()
    jobs = train.enqueue_many([(number,) for number in range(5)])
    take(shop, 2)
    unknown = shop.limits.line("gpu").jobs[2]
    minute = shop.client.clock.now() // MINUTE * MINUTE
    shop.storage.record_metrics([Rollup(minute, "train", "default", "succeeded", 2, 2 * MINUTE, BUCKETS)])

    known = shop.limits.line("gpu").jobs[2]
    (place,) = shop.limits.places(jobs[4].id)

    assert jobs[4].id == known.job.id
    assert unknown.starts_at is None
    assert 90 == round((micros(known.starts_at) - shop.client.clock.now()) / 1_000_000)
    assert ("gpu", 2, False) == (place.key, place.ahead, place.is_least)
    assert "limit gpu (2 of 2 running)" == str(place.wait)
    assert [] == shop.limits.places(jobs[0].id)


@pytest.mark.parametrize("after", [-1, 10_001, True, "3"])
def test_start_of_a_line_must_be_within_its_range(shop, after):
    """The error contains the range of valid values for `after`."""
    with pytest.raises(ConfigurationError, match="after must be an integer from 0 to 10,000, got"):
        shop.limits.line("gpu", after)


def test_place_of_an_unknown_job_is_not_found(shop):
    """The error contains the id of the job."""
    with pytest.raises(JobNotFound, match="'nobody' was not found"):
        shop.limits.places("nobody")


class Reading(MemoryStorage):
    """A storage in memory that counts the reads of dashboard pages."""

    def __init__(self):
        super().__init__("")
        self.calls = 0

    def find_keys(self, *given, **named):
        self.calls += 1
        return super().find_keys(*given, **named)

    def find_waiting(self, *given, **named):
        self.calls += 1
        return super().find_waiting(*given, **named)


def test_number_of_reads_does_not_grow_with_the_page():
    """The number of reads is bounded, however many customers and keys a page shows."""
    with Firelock(Reading()) as fire:
        limits = [Limit("openai", rate=6, per=60, burst=1), Limit("customer:{customer}", concurrent=1)]
        task = fire.task(name="describe", limits=limits)(describe_customer)
        task.enqueue_many([(number,) for number in range(300)])
        fire.limits.sync()
        take(fire, 1)

        for read in (lambda: fire.limits.line("openai", limit=100), lambda: fire.limits.list(limit=100)):
            fire.storage.calls = 0
            read()
            assert fire.storage.calls <= 12


def describe_customer(customer: int) -> None:
    """The task of the test above."""

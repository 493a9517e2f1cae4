"""Retry policies: their waits, the errors that they retry, and how they are checked and stored."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firelock.errors import ConfigurationError
from firelock.retry import (
    DEFAULT_WAITS,
    DecisionKind,
    OnExceeded,
    Retry,
    RetryDecision,
    describe_error,
    retry_reason,
)

MINUTE, HOUR, YEAR = timedelta(minutes=1), timedelta(hours=1), timedelta(days=365)


def middle():
    """Return the random number for which jitter does not change a wait."""
    return 0.5


@attrs.frozen
class Retried:
    """A job with this number of retries."""

    retries: int


class Refused(ConnectionError):
    """An application's own exception."""


class UnreadableMessage(Exception):
    """An exception whose `__str__` raises."""

    def __str__(self):
        raise RuntimeError


def seconds(policy, count):
    """Return the first waits of a policy without jitter."""
    return [policy.wait(number, middle).total_seconds() for number in range(1, count + 1)]


# ---- waits --------------------------------------------------------------------------------------------


def test_default_waits_grow_from_a_minute_to_a_day():
    """By default, the waits are 1, 5, 15 min, 1, 2, 4, 8, 12, 24, 24 h, and the last one repeats."""
    policy = Retry()

    assert 10 == policy.attempts
    assert [60, 300, 900, 3600, 7200, 14400, 28800, 43200, 86400, 86400, 86400] == seconds(policy, 11)


@pytest.mark.parametrize(("drawn", "share"), [(0.0, 0.9), (0.5, 1.0), (0.75, 1.05), (1.0, 1.1)])
def test_jitter_spreads_a_wait_by_ten_percent(drawn, share):
    """The random number moves the wait evenly between 10 % less and 10 % more."""
    assert timedelta(seconds=100) * share == Retry.fixed(100).wait(1, lambda: drawn)


def test_listed_waits_repeat_the_last_one():
    """The waits are used in the order listed."""
    assert [1, 0, 2.5, 2.5] == seconds(Retry.listed([1, timedelta(0), 2.5]), 4)


def test_exponential_wait_doubles_up_to_the_longest_wait():
    """Each wait is twice the previous one, up to a day by default."""
    assert [1, 2, 4, 8, 16] == seconds(Retry.exponential(1), 5)
    assert [10, 30, 60, 60] == seconds(Retry.exponential(10, factor=3, longest=MINUTE), 4)
    assert [5, 5] == seconds(Retry.exponential(5, factor=1), 2)
    assert [86_400] == seconds(Retry.exponential(1, attempts=100), 100)[-1:]


@pytest.mark.parametrize("number", range(1, 11))
def test_polynomial_waits_match_those_of_hangfire(number):
    """The wait is 15 to 44 seconds before the first retry and 6,576 to 6,866 before the tenth."""
    policy, least = Retry.polynomial(), (number - 1) ** 4 + 15

    assert timedelta(seconds=least) == policy.wait(number, lambda: 0.0)
    assert timedelta(seconds=least + 29 * number) == policy.wait(number, lambda: 0.999_999)


def test_polynomial_accepts_additional_jitter():
    """An explicit jitter spreads the polynomial wait like any other."""
    assert timedelta(seconds=15 * 0.5) == Retry.polynomial(jitter=0.5).wait(1, lambda: 0.0)


POLICIES = st.one_of(
    st.builds(
        Retry,
        st.integers(0, 1000),
        waits=st.none() | st.lists(st.timedeltas(timedelta(0), YEAR), min_size=1, max_size=12),
        jitter=st.floats(0, 1),
        only_on=st.lists(st.sampled_from([OSError, "app.errors.Busy", "Exception"])),
        except_on=st.sets(st.sampled_from([ValueError, "app.errors.Gone"])),
        on_exceeded=st.sampled_from(["fail", "delete"]),
    ),
    st.builds(Retry.polynomial, attempts=st.integers(0, 1000)),
    st.builds(
        Retry.exponential,
        st.timedeltas(timedelta(seconds=1), HOUR),
        factor=st.floats(1, 100),
        attempts=st.integers(0, 1000),
    ),
)


@given(policy=POLICIES, number=st.integers(1, 1001), drawn=st.floats(0, 1, exclude_max=True))
def test_wait_is_never_negative_or_above_a_year(policy, number, drawn):
    """Any combination of policy, retry number and random number gives a wait that can be scheduled."""
    assert timedelta(0) <= policy.wait(number, lambda: drawn) <= YEAR


@given(policy=POLICIES)
def test_stored_policy_is_equal_when_it_is_read(policy):
    assert policy == Retry.from_json(policy.to_json())


def test_first_retry_has_number_one():
    """Requesting the wait before retry 0 raises an error."""
    with pytest.raises(ConfigurationError, match="retry_number must be at least 1, got 0"):
        Retry().wait(0, middle)


# ---- deciding -----------------------------------------------------------------------------------------


def test_attempts_are_retries_after_the_first_attempt():
    """attempts=2 allows two retries, so the third failure is final."""
    kinds = [Retry(2).decide(Retried(made), ValueError(), random=middle).kind for made in range(4)]

    assert ["retry", "retry", "fail", "fail"] == kinds


def test_never_makes_the_first_failure_final():
    assert RetryDecision.fail("ValueError: bad (not retried)") == Retry.never().decide(
        Retried(0), ValueError("bad")
    )
    assert DecisionKind.DELETE is Retry.never(on_exceeded="delete").decide(Retried(0), ValueError()).kind


def test_default_random_source_stays_within_the_jitter():
    decision = Retry.fixed(100).decide(Retried(0), ValueError())

    assert timedelta(seconds=90) <= decision.after <= timedelta(seconds=110)


@pytest.mark.parametrize(
    ("options", "error", "kind"),
    [
        ({"only_on": [ConnectionError]}, ConnectionError(), "retry"),
        ({"only_on": [OSError]}, Refused(), "retry"),
        ({"only_on": OSError}, Refused(), "retry"),
        ({"only_on": [ConnectionError]}, OSError(), "fail"),
        ({"only_on": ["builtins.OSError"]}, Refused(), "retry"),
        ({"only_on": "IOError"}, Refused(), "retry"),
        ({"only_on": [f"{Refused.__module__}.Refused"]}, Refused(), "retry"),
        ({"only_on": ["elsewhere.Refused"]}, Refused(), "fail"),
        ({"except_on": [ValueError]}, ValueError(), "fail"),
        ({"except_on": {ValueError}}, UnicodeError(), "fail"),
        ({"except_on": [ValueError]}, ConnectionError(), "retry"),
        ({"only_on": [OSError], "except_on": [Refused]}, Refused(), "fail"),
        ({"only_on": [OSError], "except_on": [Refused]}, ConnectionError(), "retry"),
    ],
)
def test_only_on_and_except_on_match_classes_of_exceptions(options, error, kind):
    """A class or a qualified name matches the exception's class and its bases; `except_on` has priority."""
    assert kind == Retry(**options).decide(Retried(0), error, random=middle).kind


def test_reason_names_an_exception_that_is_not_retried():
    """The reason distinguishes a failure that the policy does not retry from exhausted retries."""
    decision = Retry(except_on=[ValueError], on_exceeded="delete").decide(Retried(0), ValueError("bad"))

    assert RetryDecision.fail("ValueError: bad (not retried by policy)") == decision


def test_class_defined_in_a_function_matches():
    """The qualified name of a local class is stored and matched like any other."""

    class Local(Exception):
        pass

    policy = Retry.from_json(Retry(only_on=[Local]).to_json())

    assert policy.wants(Local())
    assert not policy.wants(Exception())


# ---- invalid values -----------------------------------------------------------------------------------

NO_WAITS = [
    -1,
    timedelta(seconds=-1),
    float("nan"),
    float("inf"),
    float("-inf"),
    1e18,
    10**400,
    timedelta(days=366),
    True,
    "5",
    None,
    b"5",
    [5],
]


@pytest.mark.parametrize("wait", NO_WAITS, ids=repr)
@pytest.mark.parametrize(
    "use",
    [
        Retry.fixed,
        lambda wait: Retry.listed([1, wait]),
        Retry.exponential,
        lambda wait: Retry.exponential(1, longest=wait),
        RetryDecision.snooze,
        lambda wait: RetryDecision.retry("never" if wait is None else wait),
    ],
    ids=["fixed", "listed", "exponential", "longest", "snooze", "retry"],
)
def test_invalid_wait_is_refused(use, wait):
    """A wait must not be negative, infinite or above a year. The error states what to pass."""
    with pytest.raises(
        ConfigurationError, match="must be a timedelta or a number of seconds, from 0 to 365 days, got"
    ) as caught:
        use(wait)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Retry(-1),
            "an integer from 0 to 1000, the number of retries after the first attempt, got -1",
        ),
        (lambda: Retry(1001), "attempt, got 1001."),
        (lambda: Retry(10**5000), "attempt, got a value of type int."),
        (lambda: Retry(True), "attempt, got True."),
        (lambda: Retry("3"), "attempt, got '3'."),
        (lambda: Retry(jitter=-0.1), "jitter must be a number from 0 to 1, got -0.1. For example, 0.1"),
        (lambda: Retry(jitter=float("nan")), "jitter must be a number from 0 to 1, got nan"),
        (lambda: Retry(waits=[]), "waits must be a list of 1 to 1000 waits, got []. Use Retry.fixed(60)"),
        (lambda: Retry(waits=60), "waits must be a list of 1 to 1000 waits, got 60"),
        (lambda: Retry(waits="linear"), "waits must be a list of 1 to 1000 waits, got 'linear'"),
        (lambda: Retry(waits=[1] * 1001), "waits must be a list of 1 to 1000 waits, got "),
        (
            lambda: Retry(waits=[1, -1]),
            "waits[1] must be a timedelta or a number of seconds, from 0 to 365 days, got -1",
        ),
        (
            lambda: Retry.exponential(0),
            "first must be above zero and at most longest (1 day, 0:00:00), got 0:00:00",
        ),
        (
            lambda: Retry.exponential(60, longest=30),
            "first must be above zero and at most longest (0:00:30), got 0:01:00",
        ),
        (lambda: Retry.exponential(1, factor=0.5), "factor must be a number from 1 to 100, got 0.5"),
        (lambda: Retry.exponential(1, factor=float("inf")), "factor must be a number from 1 to 100, got inf"),
        (lambda: Retry(on_exceeded="retry"), "on_exceeded must be 'fail' or 'delete', got 'retry'."),
        (lambda: Retry(only_on=[int]), "the class, got <class 'int'>"),
        (
            lambda: Retry(only_on=["Busy"]),
            "a built-in class, or 'module.Name' with the module that defines the class, got 'Busy'",
        ),
        (lambda: Retry(only_on=["app..Busy"]), "got 'app..Busy'"),
        (lambda: Retry(only_on=["os; import os.path"]), "got 'os; import os.path'"),
        (lambda: Retry(except_on=[None]), "got None"),
        (lambda: Retry(except_on=5), "only_on and except_on must be lists of up to 100 exceptions"),
        (lambda: Retry(except_on=["a.b"] * 101), "must be lists of up to 100 exceptions"),
    ],
)
def test_invalid_policy_is_refused(make, words):
    """The error is raised when the policy is created. It contains the value and what to write instead."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


def test_invalid_value_without_a_repr_is_refused():
    """A value whose repr raises is named by its type."""

    class Silent:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(
        ConfigurationError, match="waits must be a list of 1 to 1000 waits, got a value of type Silent"
    ):
        Retry(waits=Silent())


# ---- storing ------------------------------------------------------------------------------------------


def test_stored_policy_is_compact_json():
    """The stored string contains every option, with waits in microseconds and classes by name."""
    policy = Retry.listed([1, MINUTE], attempts=3, only_on=[OSError], on_exceeded="delete")

    assert (
        '{"attempts":3,"waits":[1000000,60000000],"jitter":0.1,"only_on":["builtins.OSError"],"except_on":[],'
        '"on_exceeded":"delete"}'
    ) == policy.to_json()


def test_reading_a_policy_does_not_import_classes():
    """A stored class name is compared but never imported, because the server may not have its code."""
    text = Retry(only_on=["antigravity.Error", "no.such.module.Error"]).to_json()
    code = (
        "import sys; from firelock.retry import Retry; before = set(sys.modules); "
        "Retry.from_json(sys.argv[1]).wants(ValueError()); print(sorted(set(sys.modules) - before))"
    )

    run = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)

    assert "[]" == run.stdout.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "null",
        "5",
        "[]",
        "{}",
        '{"waits":null}',
        '{"waits":5}',
        '{"waits":["5"]}',
        '{"waits":[-1]}',
        '{"waits":[1e400]}',
        '{"waits":[99999999999999999999]}',
        '{"waits":[1],"attempts":-1}',
        '{"waits":[1],"attempts":true}',
        '{"waits":"linear"}',
        "[" * 50_000,
        json.dumps({"waits": [1] * 50_000}),
    ],
)
def test_damaged_stored_policy_raises_configuration_error(text):
    """The message is short, whatever is stored."""
    with pytest.raises(ConfigurationError) as caught:
        Retry.from_json(text)

    assert len(str(caught.value)) < 300


def test_stored_policy_ignores_fields_of_a_newer_release():
    """In a rolling deploy, jobs that a newer release stored keep the options that this release supports."""
    policy = Retry.fixed(60, attempts=3)
    stored = json.dumps({**json.loads(policy.to_json()), "colour": "red"})

    assert policy == Retry.from_json(stored)


def test_policies_can_be_compared_and_hashed_but_not_changed():
    assert Retry(waits=DEFAULT_WAITS, on_exceeded=OnExceeded.FAIL) == Retry()
    assert 1 == len({Retry(), Retry(10)})
    with pytest.raises(AttributeError):
        Retry().attempts = 3


# ---- messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("refused"), "ConnectionError: refused"),
        (Refused("port 5432"), "Refused: port 5432"),
        (ValueError(), "ValueError"),
        (ValueError("two\nlines\tand  more "), "ValueError: two lines and more"),
        (ValueError("x" * 201), "ValueError: " + "x" * 199 + "…"),
        (ValueError("a\0b"), "ValueError: a\\0b"),
        (UnreadableMessage(), "UnreadableMessage: (its message cannot be read: RuntimeError)"),
    ],
)
def test_error_is_described_on_one_short_line(error, words):
    """The line has at most 200 characters and omits characters that a storage refuses."""
    assert words == describe_error(error)


def test_reason_contains_the_retry_number_and_the_error():
    """The reason also contains the total number of retries if that is known."""
    assert "retry 3 of 10: ConnectionError: refused" == retry_reason(3, 10, ConnectionError("refused"))
    assert "retry 3: ConnectionError: refused" == retry_reason(3, None, ConnectionError("refused"))

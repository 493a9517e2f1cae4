"""The parts that the whole kit shares: the guard against disabled tests, and optional features."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:  # every pytest run with Firelock installed loads this module through the plugin
    from firelock.storage import Feature

NOT_OFFERED = "not offered: "
REPORTED = "firelock conformance"  # the property of a test report that names the tested storage
_FEATURES = "firelock_requires"

_Test = TypeVar("_Test", bound=Callable[..., object])


def requires(feature: Feature) -> Callable[[_Test], _Test]:
    """Skip the test, and report the feature as not offered, if the storage does not declare it.

    A test may be marked more than once. To mark all tests of a part of the kit, set its `needs`.
    """

    def mark(test: _Test) -> _Test:
        setattr(test, _FEATURES, (*required_features(test), feature))
        return test

    return mark


def required_features(test: object) -> tuple[Feature, ...]:
    """Return the features that a test needs; most tests need none."""
    features: tuple[Feature, ...] = getattr(test, _FEATURES, ())
    return features


class Conformance:
    """The base class of the kit's classes.

    A subclass may add tests. It may disable a test only by stating a reason: a test that is overridden, or
    set to None, without `@pytest.mark.xfail(reason="…")` raises an error when the class is created. Two tests
    with the same name in different parts of the kit also raise an error.
    """

    verbs: ClassVar[str] = ""
    """The verbs that a part of the kit tests, separated by spaces; `pytest -k VERB` selects its tests."""

    needs: ClassVar[Feature | None] = None
    """The feature that all tests of a part of the kit need."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if (feature := vars(cls).get("needs")) is not None:
            for name, test in vars(cls).items():
                if name.startswith("test"):
                    requires(feature)(test)
        for name in _tests_of(cls):
            owners = [base for base in cls.__mro__ if name in vars(base)]
            if len(owners) > 1 and not _is_expected_to_fail(vars(owners[0])[name]):
                raise TypeError(
                    f"{owners[0].__name__}.{name} replaces the test of {owners[1].__name__}. "
                    f'Rename your test, or state a reason: @pytest.mark.xfail(reason="…").'
                )


def words_of(kit: type[Conformance], test: str) -> set[str]:
    """Return the words, besides its name, with which `-k` selects a test: its part and its verbs."""
    part = next((base for base in kit.__mro__ if test in vars(base)), kit)
    return {part.__name__.removesuffix("Tests").lower(), *vars(part).get("verbs", "").split()}


def _tests_of(kit: type) -> set[str]:
    return {name for base in kit.__mro__ for name in vars(base) if name.startswith("test")}


def _is_expected_to_fail(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)

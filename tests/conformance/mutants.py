"""Mutants of `MemoryStorage`, and which test catches each: `python -m tests.conformance.mutants`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from inspect import signature
from itertools import count, product
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from firelock.ids import new_id
from firelock.storage import Storage, defaults
from firelock.testing import Handles, Scene, StorageConformance
from firelock.testing.conformance import required_feature

_TABLE = Path(__file__).with_name("mutations.txt")
_ORIGINAL = "firelock.memory"
_SHARED, _SHARED_MODULES = "firelock.storage", {"steps", "selection"}  # what the model shares with others
_DERIVED = (
    "put_recurring", "due_recurring", "fire_recurring", "acquire_lock", "renew_lock", "release_lock",
    "append_logs", "record_metrics", "timeline", "failure_groups",
)  # fmt: skip
_numbers = count()


@attrs.frozen
class Mutation:
    """One change of the model's source, and the part of the kit that has to notice it."""

    name: str
    duty: str
    module: str
    old: str
    new: str


def mutations() -> list[Mutation]:
    """Return the mutations of the table, in order."""
    module, found = "", []
    for block in _TABLE.read_text("utf-8").split("\n\n"):
        title, *lines = block.strip("\n").split("\n")
        if title.startswith("===="):
            module = title.strip("= ")
        elif lines and lines[0].startswith("-"):
            duty, _, name = title.partition(": ")
            old, new = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
            found.append(Mutation(name, duty, module, old, new))
    return found


# ---- making a mutant -------------------------------------------------------------------------------------


def mutated(source: str, mutation: Mutation) -> str:
    """Return the source with the mutation in it; it has to be there."""
    if mutation.old not in source:
        message = f"Mutation {mutation.name!r} finds nothing to change in {mutation.module}: {mutation.old!r}"
        raise LookupError(message)
    return source.replace(mutation.old, mutation.new)


class _Mutator(MetaPathFinder, Loader):
    """Imports the model's package under another name, one module of it changed."""

    def __init__(self, package: str, mutation: Mutation) -> None:
        self._package, self._mutation = package, mutation

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self._package and not name.startswith(f"{self._package}."):
            return None
        return importlib.util.spec_from_loader(name, self, is_package=name == self._package)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.removeprefix(self._package).removeprefix(".")
        original = f"{_SHARED if name in _SHARED_MODULES else _ORIGINAL}.{name}".rstrip(".")
        spec = importlib.util.find_spec(original)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text("utf-8")
        if name == self._mutation.module:
            source = mutated(source, self._mutation)
        exec(compile(source.replace(_ORIGINAL, self._package), spec.origin, "exec"), vars(module))
        for shared in _SHARED_MODULES & vars(module).keys():
            setattr(module, shared, importlib.import_module(f"{self._package}.{shared}"))


def opener(mutation: Mutation) -> Callable[[], Storage]:
    """Return a function that opens handles of one store of the mutant."""
    number = next(_numbers)
    storage = (_derived_mutant if mutation.module == "defaults" else _model_mutant)(number, mutation)
    return lambda: storage(f"mutant-{number}")


def _model_mutant(number: int, mutation: Mutation) -> Callable[[str], Storage]:
    package = f"mutant_{number}"
    finder = _Mutator(package, mutation)
    sys.meta_path.insert(0, finder)
    try:
        made: Callable[[str], Storage] = importlib.import_module(package).MemoryStorage
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
    return made


def _derived_mutant(number: int, mutation: Mutation) -> Callable[[str], Storage]:
    from firelock.memory import MemoryStorage

    module = ModuleType(f"defaults_{number}")
    assert defaults.__file__ is not None
    source = mutated(Path(defaults.__file__).read_text("utf-8"), mutation)
    exec(compile(source, defaults.__file__, "exec"), vars(module))

    def verb(name: str) -> Callable[..., object]:
        def derived(self: MemoryStorage, *arguments: object, **options: object) -> object:
            return getattr(module, name)(self, *arguments, **_OPTIONS.get(name, {}) | options)

        return derived

    verbs = {name: verb(name) for name in _DERIVED}
    # Without a step of their own the derived verbs stand on compare-and-set alone.
    return type("MutantStorage", (MemoryStorage,), {"one_step": lambda _: nullcontext(), **verbs})


_OPTIONS: dict[str, dict[str, object]] = {"timeline": {"task": None, "queue": None}}


# ---- running the kit on it -------------------------------------------------------------------------------


class _Hasty(StorageConformance):
    """The kit, quick to say that something hangs."""

    patience = 0.5


@attrs.frozen
class Case:
    """One test of the kit with its parameters."""

    duty: str
    name: str
    parameters: dict[str, object]

    def run(self, open_handle: Callable[[], Storage]) -> None:
        """The test passed, or raises."""
        handles = Handles(open_handle)
        test = getattr(_Hasty(), self.name)
        feature = required_feature(test)
        try:
            if feature is None or feature in handles.first.features:
                known: dict[str, object] = {
                    "handles": handles, "scene": Scene(handles), "storage": handles.first, "locks": handles,
                    "open_handle": open_handle, "name": f"lock:{new_id()}", **self.parameters,
                }  # fmt: skip
                test(**{name: known[name] for name in signature(test).parameters})
        finally:
            handles.close()


def cases(duty: str | None = None) -> Iterator[Case]:
    """Yield the kit's tests, of one duty where it is named; not the model test, which compares two models."""
    for base in StorageConformance.__mro__:
        owner = base.__name__.removesuffix("Duty")
        if owner == "Model" or duty not in (None, owner):
            continue
        for name, test in vars(base).items():
            if name.startswith("test"):
                yield from (Case(owner, name, parameters) for parameters in _parametrized(test))


def _parametrized(test: object) -> Iterator[dict[str, object]]:
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    choices = [[_named(mark.args[0], values) for values in mark.args[1]] for mark in marks]
    for choice in product(*choices):
        yield {name: value for named in choice for name, value in named.items()}


def _named(names: str | Sequence[str], values: object) -> dict[str, object]:
    if isinstance(names, str):
        return {names: values}
    assert isinstance(values, tuple)
    return dict(zip(names, values, strict=True))


_ROUNDS = 25


def catcher(mutation: Mutation, duty: str | None = None) -> Case | None:
    """Return the first test that fails on the mutant, None where all pass.

    A mutant that only a race can show may be spared by chance, and so gets more rounds.
    """
    open_handle = opener(mutation)
    keeper = open_handle()  # a named store lives as long as one of its handles
    try:
        rounds = (case for _ in range(_ROUNDS) for case in cases(duty))
        return next((case for case in rounds if _fails(case, open_handle)), None)
    finally:
        keeper.close()


def _fails(case: Case, open_handle: Callable[[], Storage]) -> bool:
    try:
        case.run(open_handle)
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - whatever a mutant raises, it was caught
        return True
    return False


def model_catches(mutation: Mutation) -> bool:
    """Tell whether the random steps of the model test find the mutant by themselves."""
    from firelock.testing.model import machine_for, run_machine

    try:
        run_machine(machine_for(opener(mutation)), shrinks=False)
    except Exception:  # noqa: BLE001 - whatever a mutant raises, it was caught
        return True
    return False


def main(arguments: Sequence[str]) -> int:
    """Print each mutant with the test that catches it; with `--model`, what random steps alone find."""
    caught = 0
    tried = mutations()
    for mutation in tried:
        if "--model" in arguments:
            found = "random steps" if model_catches(mutation) else None
        else:
            case = catcher(mutation, mutation.duty) or catcher(mutation)
            found = f"{case.duty}: {case.name}" if case else None
        caught += found is not None
        sys.stdout.write(f"{mutation.module}: {mutation.name}  ←  {found or 'NOBODY'}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{caught} of {len(tried)} caught\n")
    return 0 if caught == len(tried) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

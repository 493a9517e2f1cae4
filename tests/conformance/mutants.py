"""Mutants of three storages, with the test that catches each: `python -m tests.conformance.mutants`.

The first storage is `MemoryStorage`, whose code for tables all others share. The second is the third-party
storage `firelock-files`, with the mistakes of an author who writes a storage for the first time. The third
has rows with keys of at most 511 bytes.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing, contextmanager
from importlib.abc import Loader, MetaPathFinder
from inspect import signature
from itertools import count, product
from pathlib import Path
from types import MappingProxyType, ModuleType

import attrs
import pytest

from firelock.limits import admission, line, settings, unique_rules
from firelock.model.ids import new_id
from firelock.storage import (
    Storage,
    batches,
    derived,
    keyed_tables,
    memory,
    relation_tables,
    row_storage,
    rules,
    short_keys,
    table_storage,
    tables,
)
from firelock.testing import Handles, RowStorageConformance, Scene, StorageConformance
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.kit import required_features
from firelock.testing.conformance.locks import NamedLock
from tests.conformance import plain_rows
from tests.conformance.plain_rows import Store

_TABLE = Path(__file__).with_name("mutations.txt")
_THIRD_PARTY = Path(__file__).parents[1] / "end_to_end" / "third_party" / "firelock-files" / "src"
_FILE_PACKAGE = "firelock_files"
_PARTS = (
    settings,
    line,
    admission,
    unique_rules,
    rules,
    batches,
    tables,
    keyed_tables,
    relation_tables,
    derived,
    table_storage,
)  # the parts of the model, each after those that it uses
_MODEL = {"memory", *(part.__name__.rpartition(".")[2] for part in _PARTS)}
_numbers = count()


@attrs.frozen
class Mutation:
    """One change to a module's source, and the part of the kit that must detect it."""

    name: str
    detected_by: str  # a part of the kit, at least one of whose tests must fail
    module: str
    old: str
    new: str
    legal: str = ""  # the reason why the contract allows it, if it does; then no test may fail


def mutations(table=_TABLE):
    """Return the mutations of a table, in order."""
    module, found = "", []
    for block in table.read_text("utf-8").split("\n\n"):
        title, *lines = block.strip("\n").split("\n")
        if title.startswith("===="):
            module = title.strip("= ")
        elif lines and lines[0].startswith("-"):
            detected_by, _, name = title.partition(": ")
            old, new, legal = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+=")
            found.append(Mutation(name, detected_by, module, old, new, legal))
    return found


def path_of(mutation):
    """Return the file that the mutation changes."""
    if mutation.module.startswith(_FILE_PACKAGE):
        return _THIRD_PARTY / f"{mutation.module.replace('.', '/')}.py"
    parts = {part.__name__.rpartition(".")[2]: part for part in (*_PARTS, memory, short_keys, row_storage)}
    return Path(parts[mutation.module].__file__)


# ---- creation of a mutant --------------------------------------------------------------------------------


def mutated(source, mutation):
    """Return the source with the mutation, whose old text must exist."""
    if mutation.old not in source:
        raise LookupError(
            f"Mutation {mutation.name!r} finds nothing to change in {mutation.module}: {mutation.old!r}"
        )
    return source.replace(mutation.old, mutation.new)


class _Mutator(MetaPathFinder, Loader):
    """An importer of the third-party package under another name, with one module changed."""

    def __init__(self, package, mutation):
        self._package, self._mutation = package, mutation

    def find_spec(self, name, path, target=None):
        if name != self._package and not name.startswith(f"{self._package}."):
            return None
        return importlib.util.spec_from_loader(name, self, is_package=name == self._package)

    def exec_module(self, module):
        name = module.__name__.removeprefix(self._package).removeprefix(".")
        path = _THIRD_PARTY / _FILE_PACKAGE / f"{name or '__init__'}.py"
        source = path.read_text("utf-8")
        if name == self._mutation.module.removeprefix(f"{_FILE_PACKAGE}."):
            source = mutated(source, self._mutation)
        exec(compile(source.replace(_FILE_PACKAGE, self._package), str(path), "exec"), vars(module))


@attrs.frozen
class Subject:
    """A running mutant, with a function that opens its handles and the optional fixtures of the kit."""

    open_handle: Callable[[], Storage]
    fixtures: Mapping[str, object] = {}
    clean_up: Callable[[], object] = lambda: None  # runs after each test; undoes what `clear` cannot


@contextmanager
def subject_of(mutation):
    """Yield one empty store of the mutant, which is removed afterwards."""
    name = f"mutant_{next(_numbers)}"
    if mutation.module in _MODEL:
        with _kept(name, _model_mutant(name, mutation)) as subject:
            yield subject
    elif mutation.module == "row_storage":
        with tempfile.TemporaryDirectory() as folder:
            yield _file_storage(Path(folder), _row_mutant(name, mutation))
    elif mutation.module == "short_keys":
        store = Store()
        plain = _on_mutated_rows(name, mutation, Path(plain_rows.__file__))["PlainStorage"]
        yield Subject(lambda: plain(store))
    else:
        with tempfile.TemporaryDirectory() as folder, _imported(name, mutation) as package:
            yield _file_storage(Path(folder), package.FileStorage)


@contextmanager
def _kept(name, storage):
    keeper = storage(name)  # a named store exists as long as one of its handles
    try:
        yield Subject(lambda: storage(name))
    finally:
        keeper.close()


def _file_storage(folder, storage):
    path = folder / "jobs"
    (folder / "file").touch()

    def change_layout(layout):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("update rows set value = ? where key = 'layout'", (layout,))

    fixtures = {
        "make_newer_schema": lambda: change_layout(100),
        "open_unreachable": lambda: storage(f"files://{folder}/file/jobs"),
        "break_driver": lambda handle: handle.connection.close(),
    }
    return Subject(
        lambda: storage(f"files://{path}?sync=off"), fixtures, lambda: path.exists() and change_layout(2)
    )


@contextmanager
def _imported(package, mutation):
    """Yield the changed package, imported under this name."""
    finder = _Mutator(package, mutation)
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module(package)
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]


def _changed(name, original, mutation, renamed=MappingProxyType({})):
    """Return a copy of a module that imports renamed modules; apply the mutation if it is in this module."""
    module = sys.modules[name] = ModuleType(name)  # where the annotations of its values are resolved
    path = Path(original.__file__)
    source = path.read_text("utf-8")
    if path.stem == mutation.module:
        source = mutated(source, mutation)
    source = re.sub(r"from (firelock\.storage) import ([a-z_, ]+)\n", _one_a_line, source)
    for old, new in renamed.items():
        package, _, module_name = old.rpartition(".")
        source = source.replace(f"from {package} import {module_name}\n", f"import {new} as {module_name}\n")
        source = source.replace(f"{old} import", f"{new} import")
    exec(compile(source, str(path), "exec"), vars(module))
    return module


def _one_a_line(found):
    """Return an import of several modules as one line per module."""
    return "".join(f"from {found[1]} import {one}\n" for one in found[2].split(", "))


def _model_mutant(name, mutation):
    """Return the model (its rules, verbs and tables) with one of its modules mutated."""
    others: dict[str, str] = {}
    for part in _PARTS:
        new = f"{name}_{part.__name__.rpartition('.')[2]}"
        _changed(new, part, mutation, others)
        others[part.__name__] = new
    return _changed(name, memory, mutation, others).MemoryStorage


def _row_mutant(name, mutation):
    """Return the third-party storage on mutated rows."""
    return _on_mutated_rows(name, mutation, _THIRD_PARTY / _FILE_PACKAGE / "storage.py")["FileStorage"]


def _on_mutated_rows(name, mutation, path):
    """Run a storage's file with a mutant of `RowStorage`, and return the names that it defines."""
    keys = f"{name}_short_keys"
    _changed(keys, short_keys, mutation)
    rows = _changed(name, row_storage, mutation, {short_keys.__name__: keys})
    found = vars(ModuleType(f"{name}_storage")) | {"RowStorage": rows.RowStorage}
    source = path.read_text("utf-8").replace("RowStorage, ", "")
    exec(compile(source, str(path), "exec"), found)
    return found


# ---- running the kit on a mutant -------------------------------------------------------------------------


class _Hasty(RowStorageConformance):
    """The kit with a short timeout for hanging calls."""

    hang_timeout = 0.5


# Fixtures that not every storage can provide.
_OPTIONAL = {"make_newer_schema", "open_unreachable", "break_driver", "lock_job"}


@attrs.frozen
class Case:
    """One test of the kit with its parameters."""

    part: str
    name: str
    parameters: dict[str, object]

    def run(self, subject):
        """Run the test, which raises if it fails; a test whose fixture the mutant lacks passes."""
        test = getattr(_Hasty(), self.name)
        if _OPTIONAL & signature(test).parameters.keys() - subject.fixtures.keys():
            return
        handles = Handles(subject.open_handle)
        try:
            if handles.first.features.issuperset(required_features(test)):
                known = {
                    "handles": handles, "scene": Scene(handles), "flow": FlowScene(handles),
                    "storage": handles.first, "locks": handles,
                    "open_handle": subject.open_handle,
                    "lock": NamedLock(handles, handles.first, f"lock:{new_id()}"),
                    **subject.fixtures,
                    **self.parameters,
                }  # fmt: skip
                test(**{name: known[name] for name in signature(test).parameters})
        finally:
            handles.close()
            subject.clean_up()


def cases(part=None, kit=StorageConformance):
    """Yield the kit's tests, or the tests of one part, except the comparison with the model."""
    for base in reversed(kit.__mro__):  # in the order in which pytest runs them
        owner = base.__name__.removesuffix("Tests")
        if part not in (None, owner):
            continue
        for name, test in vars(base).items():
            if name.startswith("test") and name != "test_random_operations_agree_with_the_model":
                yield from (Case(owner, name, parameters) for parameters in _parametrized(test))


def _parametrized(test):
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    choices = [[_named(mark.args[0], values) for values in mark.args[1]] for mark in marks]
    for choice in product(*choices):
        yield {name: value for named in choice for name, value in named.items()}


def _named(names, values):
    if isinstance(names, str):
        return {names: values}
    assert isinstance(values, tuple)
    return dict(zip(names, values, strict=True))


_ROUNDS = 25


def catcher(mutation, part=None, *, rounds=_ROUNDS):
    """Return the first test that fails on the mutant, or None if all pass.

    A mutant that only a race can show might pass by chance, so it gets more rounds.
    """
    kit = StorageConformance if mutation.module in _MODEL else RowStorageConformance
    with subject_of(mutation) as subject:
        tried = (case for _ in range(rounds) for case in cases(part, kit))
        return next((case for case in tried if fails(case, subject)), None)


def fails(case, subject):
    """Return whether the test fails on the mutant."""
    try:
        case.run(subject)
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - any exception of a mutant counts as caught
        return True
    return False


def model_catches(mutation):
    """Return whether the random operations of the model test find the mutant."""
    from firelock.testing.conformance.model import machine_for, run_machine

    with subject_of(mutation) as subject:
        try:
            run_machine(machine_for(subject.open_handle), shrinks=False)
        except Exception:  # noqa: BLE001 - any exception of a mutant counts as caught
            return True
    return False


def _found(mutation, *, by_model):
    if by_model:
        return "random operations" if model_catches(mutation) else None
    case = catcher(mutation, mutation.detected_by) if not mutation.legal else None
    case = case or catcher(mutation, rounds=1)
    return f"{case.part}: {case.name}" if case else None


def main(arguments):
    """Print each mutant with the test that catches it; with `--model`, only those that random operations
    find.

    Other arguments select modules by the beginning of their names. The exit code is 0 if every fault is
    caught and no permitted change fails a test.
    """
    by_model = "--model" in arguments
    starts = tuple(argument for argument in arguments if not argument.startswith("-")) or ("",)
    tried = [mutation for mutation in mutations() if mutation.module.startswith(starts)]
    wrong = 0
    for mutation in tried:
        found = _found(mutation, by_model=by_model)
        wrong += (found is not None) == bool(mutation.legal)
        caught_by = f"{found or 'NOBODY'}{f' (legal: {mutation.legal})' if mutation.legal else ''}"
        sys.stdout.write(f"{mutation.module}: {mutation.name}  ←  {caught_by}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{len(tried) - wrong} of {len(tried)} as they should be\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""An app is found by the name its operator gave, and what is wrong with it is said in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from firelock import ConfigurationError, Firelock
from firelock.server.loading import load_app, load_module, locate_app

GOOD = 'from firelock import Firelock\nfire = Firelock("memory://")\n@fire.task\ndef work() -> None: ...\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty working folder; modules imported from it are forgotten afterwards."""
    known, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]
    sys.path[:] = path


def test_an_app_is_found_in_a_module(folder: Path) -> None:
    """`module:name` is looked up from the working folder."""
    (folder / "shop_a.py").write_text(GOOD)

    app = load_app("shop_a:fire")

    assert ["shop_a.work"] == [info.name for info in app.tasks()]
    assert "shop_a:fire" == locate_app(app)


def test_an_app_is_found_in_a_file(folder: Path) -> None:
    """`file.py:name` gives tasks the names they have when the file is run."""
    (folder / "shop_b.py").write_text(GOOD)

    app = load_app("shop_b.py:fire")

    assert ["shop_b.work"] == [info.name for info in app.tasks()]
    assert app is load_app("shop_b.py:fire")


def test_the_storage_named_on_the_command_line_wins(folder: Path) -> None:
    """A URL given beside the app takes the place of the app's own."""
    (folder / "shop_c.py").write_text(GOOD)

    assert "memory://other" == load_app("shop_c:fire", storage="memory://other").storage.url


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("shop", ["'shop'", "module:name"]),
        ("nowhere_at_all:fire", ["nowhere_at_all", "check the name"]),
        ("missing.py:fire", ["missing.py"]),
        ("json:dumps", ["dumps", "no Firelock"]),
    ],
)
def test_what_names_no_app_is_refused(folder: Path, spec: str, parts: list[str]) -> None:
    """The message holds the value and what to do."""
    with pytest.raises(ConfigurationError) as refused:
        load_app(spec)

    assert all(part in str(refused.value) for part in parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1 / 0\n", ["ZeroDivisionError", ":1"]),
        ("import firelock_needs_this\n", ["ModuleNotFoundError", "firelock_needs_this"]),
        ("def broken(:\n", ["SyntaxError", ":1"]),
    ],
)
@pytest.mark.parametrize("form", ["module", "file"])
def test_a_module_that_raises_is_named_with_its_line(
    folder: Path, text: str, parts: list[str], form: str
) -> None:
    """Whoever starts the server reads which line of which file to mend."""
    (folder / "broken_shop.py").write_text(text)

    with pytest.raises(ConfigurationError) as refused:
        load_app("broken_shop:fire" if form == "module" else "broken_shop.py:fire")

    assert all(part in str(refused.value) for part in ["broken_shop.py", *parts])


def test_a_module_of_the_command_line_is_imported(folder: Path) -> None:
    """`--import` takes what stands in the working folder."""
    (folder / "extra_tasks.py").write_text("ANSWER = 42\n")

    assert 42 == load_module("extra_tasks").ANSWER


def test_an_app_in_no_module_is_not_found() -> None:
    """Another process could not find it either."""
    assert locate_app(Firelock("memory://")) is None

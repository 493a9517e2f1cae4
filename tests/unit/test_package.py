"""The package as one sees it: its names, loaded when they are asked for, and its program."""

from __future__ import annotations

import importlib
from importlib.metadata import version

import pytest

import firelock


def test_every_public_name_is_there():
    """What the package says it has can be had, and a reader of its names is shown these alone."""
    assert sorted(firelock.__all__) == dir(firelock)
    assert all(getattr(firelock, name) is not None for name in firelock.__all__)


def test_the_version_is_that_of_the_distribution():
    """There is no second place to forget."""
    assert version("firelock") == firelock.__version__


def test_an_unknown_name_is_an_attribute_error():
    """As of any module, so that `hasattr` and `from … import` behave."""
    with pytest.raises(AttributeError, match="module 'firelock' has no attribute 'Firelok'"):
        firelock.Firelok  # noqa: B018 - the access is what is tested
    with pytest.raises(ImportError, match="cannot import name 'Firelok'"):
        from firelock import Firelok  # noqa: F401


@pytest.mark.parametrize(
    "name", ["firelock.__main__", "firelock.server.isolated", "firelock.server.child_process"]
)
def test_to_import_a_program_runs_nothing(name):
    """Tools that read every module of a package must not find themselves inside of one."""
    assert callable(importlib.import_module(name).main)

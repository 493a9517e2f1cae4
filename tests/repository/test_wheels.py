"""What an index shows of each wheel: the metadata that its build writes."""

from __future__ import annotations

import re
from email import message_from_string

import pytest
from hatchling.builders.wheel import WheelBuilder
from trove_classifiers import classifiers

from tests.repository.docs.pages import links, python_blocks
from tests.repository.sources import ROOT

PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))


@pytest.fixture(params=PACKAGES, ids=lambda folder: folder.name)
def folder(request):
    """A package's folder."""
    return request.param


def metadata(folder):
    """What the wheel's METADATA would say."""
    builder = WheelBuilder(str(folder))
    return message_from_string(builder.config.core_metadata_constructor(builder.metadata))


def description(folder):
    """The page that an index would show."""
    return metadata(folder).get_payload()


def test_a_wheel_says_what_it_is_and_for_whom(folder):
    """A line, a page, words to find it by, and classifiers that an index knows."""
    told = metadata(folder)
    classified = set(told.get_all("Classifier", []))

    assert len(told["Summary"]) > 20
    assert "text/markdown" == told["Description-Content-Type"]
    assert len(description(folder).split()) > 60
    assert len(told["Keywords"].split(",")) >= 5
    assert classified - set(classifiers) == set()
    assert classified >= {"Typing :: Typed", "Intended Audience :: Developers"}


def test_a_wheel_says_which_pythons_it_is_for(folder):
    """The oldest is that from which it is installed."""
    told = metadata(folder)
    pythons = re.findall(r"Python :: (3\.\d+)$", "\n".join(told.get_all("Classifier", [])), re.MULTILINE)

    assert f">={pythons[0]}" == told["Requires-Python"]


def test_a_wheel_carries_its_licence(folder):
    """By the expression, which no classifier repeats, and with the text that has to go along."""
    told = metadata(folder)

    assert "MIT" in told["License-Expression"].split(" AND ")
    assert not [one for one in told.get_all("Classifier", []) if one.startswith("License ::")]
    assert ["LICENSE"] == told.get_all("License-File")
    assert (ROOT / "LICENSE").read_bytes() == (folder / "LICENSE").read_bytes()


def test_a_description_stands_alone(folder):
    """An index has no files beside it: no link leads to one, and no picture stands there."""
    text = description(folder)

    assert [] == [link for link in links(text) if not str(link).startswith("https://")]
    assert "![" not in text
    assert "<img" not in text


def test_the_core_s_description_has_the_readme_s_example():
    """Which is run where it stands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, *_ = python_blocks(text)

    assert first.code in [block.code for block in python_blocks(description(ROOT / "packages" / "core"))]

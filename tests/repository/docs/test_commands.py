"""The command line accepts the commands in the documentation."""

from __future__ import annotations

import shlex

import pytest

from firelock.cli.commands import Problem
from firelock.cli.program import read_command
from tests.repository.docs.pages import ROOT, code_pages, tokens

_PROMPT = "$ firelock "


def commands(text):
    """Return the words after each `$ firelock` in the page's console blocks."""
    return [
        shlex.split(line.removeprefix(_PROMPT), comments=True)
        for token in tokens(text)
        if token.type == "fence" and token.info.strip() == "console"
        for line in token.content.replace("\\\n", " ").splitlines()
        if line.startswith(_PROMPT)
    ]


SHOWN = [
    pytest.param(words, id=f"{page.relative_to(ROOT).as_posix()}: {' '.join(words)}")
    for page in code_pages()
    for words in commands(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("words", SHOWN)
def test_documented_command_is_accepted(words):
    """Each command in the documentation exists and accepts its options."""
    options = read_command(words)

    assert callable(options.run)


def test_unknown_option_is_reported():
    """An option is reported if no command accepts it."""
    (words,) = commands("```console\n$ firelock jobs list --colour red   # a comment\n```\n")

    assert ["jobs", "list", "--colour", "red"] == words
    with pytest.raises(Problem):
        read_command(words)

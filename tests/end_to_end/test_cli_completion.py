"""`firelock completion`: the suggestions of the shells that are installed."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from firelock.cli.completion import nodes
from firelock.cli.program import whole_parser

# Makes bash print its suggestions for these words, the last of which is incomplete.
_COMPLETE = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_firelock
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def every():
    """Every command by its path, from the parsers."""
    return {node.path: node for node in nodes(whole_parser())}


@pytest.fixture
def bash(run, tmp_path):
    """Return a function that returns the suggestions of bash for these words."""
    program = shutil.which("bash")
    if program is None:
        pytest.skip("there is no bash here")
    script = tmp_path / "completion.bash"
    script.write_text(run("completion bash").out)
    (tmp_path / "folder").mkdir()

    def complete(words):
        shell = subprocess.run(
            [program, "--norc", "--noprofile", "-uc", _COMPLETE.format(script=script, words=words)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (0, "") == (shell.returncode, shell.stderr)
        return shell.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        ("firelock jo", ["jobs"]),
        ("firelock jobs re", ["requeue", "restore", "read"]),
        ("firelock jobs fai", ["failures"]),
        ("firelock jobs list --sta", ["--state"]),
        ("firelock jobs list --state fa", ["failed"]),
        ("firelock jobs list --state '=' fa", ["failed"]),  # bash splits --state=fa in this way
        ("firelock --app shop ':' fire queues pa", ["pause"]),  # bash splits shop:fire in this way
        ("firelock --app jobs cou", []),  # `jobs` is the value of --app, so there is no command yet
        ("firelock --storage jobs do", ["doctor"]),
        ("firelock jobs list --task fai", []),
        ("firelock dev --watch fol", ["folder"]),
        ("firelock completion z", ["zsh"]),
        ("firelock dashboard --env", ["--environment"]),  # a command of a plugin
        ("firelock nothing at", []),
    ],
)
def test_bash_suggests(bash, words, suggested):
    """The suggestions are commands, options, and values from a fixed list."""
    assert suggested == bash(words)


def test_every_command_and_option_is_completed(every):
    """Commands of plugins are completed too, and each command has a summary."""
    assert {"server", "jobs", "top", "completion", "dashboard"} <= every["firelock"].commands.keys()
    assert "List jobs, newest first." == every["firelock jobs"].commands["list"]
    assert all(text for node in every.values() for text in node.commands.values())
    assert {"--storage", "--app", "--json", "--help"} <= {
        name for flag in every["firelock doctor"].flags for name in flag.names
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_contains_every_command(run, every, shell):
    """An installed shell can parse the completion script."""
    ran = run("completion", shell)

    assert (0, "") == (ran.code, ran.error)
    for node in every.values():
        for name in node.commands:
            assert re.search(rf"\b{re.escape(name)}\b", ran.out), (node.path, name)
        for flag in node.flags:
            assert flag.names[-1].lstrip("-") in ran.out
    if (program := shutil.which(shell)) is not None:
        read = subprocess.run([program, "-n"], input=ran.out, capture_output=True, text=True, check=False)
        assert (0, "") == (read.returncode, read.stderr)


def test_unknown_shell_is_refused(run):
    """The error lists the supported shells."""
    ran = run("completion tcsh")

    assert 2 == ran.code
    assert "invalid choice: 'tcsh' (choose from" in ran.error


def test_json_contains_the_script(run):
    """Like the output of every command, the script is available as JSON."""
    assert run("completion bash").out == run("completion bash --json").json["script"]

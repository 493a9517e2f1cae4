"""`firelock completion`: a script for a shell, from the parsers of all commands, including plugins'."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import attrs

from firelock.cli.commands import Exit, describe
from firelock.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the name of a shell to the parser."""
    describe(
        parser, _print,
        more=(
            "It knows the commands and options that are installed now: print it again after an upgrade, or\n"
            "once a plugin has come. No storage is asked and no app is imported while you type."
        ),
        examples=(
            'eval "$(firelock completion bash)"    in ~/.bashrc',
            'eval "$(firelock completion zsh)"     in ~/.zshrc, after compinit',
            "firelock completion fish > ~/.config/fish/completions/firelock.fish",
        ),
    )  # fmt: skip
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SCRIPTS), help="bash, zsh or fish")


def _print(options: argparse.Namespace, screen: Screen) -> int:
    from firelock.cli.program import whole_parser  # noqa: PLC0415 - it loads every command

    script = _SCRIPTS[options.shell](list(nodes(whole_parser())))
    if screen.is_json:
        screen.json({"shell": options.shell, "script": script})
    else:
        sys.stdout.write(script)
    return Exit.DONE


# ---- command tree ----------------------------------------------------------------------------------------


@attrs.frozen
class Suggestions:
    """The suggestions for a place: one of these words, a folder, or those of the shell itself."""

    words: tuple[str, ...] = ()
    is_folder: bool = False


@attrs.frozen
class Flag:
    """An option of a command."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    value: Suggestions


@attrs.frozen
class CommandNode:
    """A command with its options and the commands below it."""

    path: str  # "firelock jobs list"
    flags: Sequence[Flag]
    commands: Mapping[str, str]  # their summaries, by name
    value: Suggestions  # of its first argument


def nodes(parser: argparse.ArgumentParser, path: str = "firelock") -> Iterator[CommandNode]:
    """Yield the command of a parser and all commands below it."""
    below: Mapping[str, argparse.ArgumentParser] = {}
    helps: dict[str, str] = {}
    flags: list[Flag] = []
    first = Suggestions()
    for action in parser._actions:  # noqa: SLF001 - argparse has no public access to them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            below = cast("Mapping[str, argparse.ArgumentParser]", action.choices)
            helps = {each.dest: _text(each.help) for each in action._choices_actions}  # noqa: SLF001
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            takes_value = action.nargs != 0
            flags.append(Flag(tuple(action.option_strings), _text(action.help), takes_value, _value(action)))
        elif first == Suggestions():
            first = _value(action)
    yield CommandNode(path, flags, {name: helps.get(name, "") for name in below}, first)
    for name, each in below.items():
        yield from nodes(each, f"{path} {name}")


def _value(action: argparse.Action) -> Suggestions:
    words = tuple(str(choice) for choice in action.choices or ())
    return Suggestions(words, is_folder=action.type is Path)


def _text(help_text: str | None) -> str:
    return " ".join((help_text or "").replace("%%", "%").split())


def _value_flags(all_nodes: Sequence[CommandNode]) -> Iterator[tuple[CommandNode, Flag, str]]:
    """Yield each name of each option that takes a value."""
    for node in all_nodes:
        for flag in node.flags:
            if flag.takes_value:
                yield from ((node, flag, name) for name in flag.names)


# ---- bash ------------------------------------------------------------------------------------------------

# COMP_WORDS is also split at ":" and "=", so "--state=failed" becomes three words.
_BASH = """\
# bash completion of firelock, written by `firelock completion bash`
_firelock() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} node=firelock word i
    local flags="" words=""
    if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case "$node $word" in
            {valued}) ((i++)); [[ ${{COMP_WORDS[i]}} == "=" ]] && ((i++)) ;;
            {commands}) node="$node $word" ;;
        esac
    done
    COMPREPLY=()
    case "$node $prev" in
{values}        {valued}) return ;;
    esac
    case "$node" in
{nodes}
    esac
    [[ $cur == -* ]] && words=$flags
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o bashdefault -o default -F _firelock firelock
"""


def _bash(all_nodes: Sequence[CommandNode]) -> str:
    values, arms = [], []
    for node, flag, name in _value_flags(all_nodes):
        words = "-d" if flag.value.is_folder else f"-W {_quoted(' '.join(flag.value.words))}"
        if flag.value != Suggestions():
            place = _quoted(f"{node.path} {name}")
            values.append(f'        {place}) COMPREPLY=($(compgen {words} -- "$cur")); return ;;\n')
    for node in all_nodes:
        flags = " ".join(name for flag in node.flags for name in flag.names)
        words = " ".join((*node.commands, *node.value.words))
        arms.append(f"        {_quoted(node.path)}) flags={_quoted(flags)} words={_quoted(words)} ;;")
    return _BASH.format(
        valued=_either(f"{node.path} {name}" for node, _, name in _value_flags(all_nodes)),
        commands=_either(node.path for node in all_nodes[1:]),
        values="".join(values), nodes="\n".join(arms),
    )  # fmt: skip


def _either(patterns: Iterator[str]) -> str:
    return "|".join(map(_quoted, patterns))


_quoted = shlex.quote


# ---- zsh -------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef firelock
# zsh completion of firelock, written by `firelock completion zsh`
_firelock() {{
    local node=firelock word i prev=${{words[CURRENT-1]}}
    local -a flags commands values
    for ((i = 2; i < CURRENT; i++)); do
        word=${{words[i]}}
        case "$node $word" in
            ({valued}) ((i++)) ;;
            ({commands}) node="$node $word" ;;
        esac
    done
    case "$node $prev" in
{values}        ({valued}) _files; return ;;
    esac
    case "$node" in
{nodes}
    esac
    if [[ ${{words[CURRENT]}} == -* ]]; then
        _describe -o option flags
    elif (( $#commands )); then
        _describe command commands
    elif (( $#values )); then
        compadd -a values
    else
        _files
    fi
}}
if [[ ${{funcstack[1]}} == _firelock ]]; then _firelock "$@"; else compdef _firelock firelock; fi
"""


def _zsh(all_nodes: Sequence[CommandNode]) -> str:
    values, arms = [], []
    for node, flag, name in _value_flags(all_nodes):
        words = " ".join(map(_quoted, flag.value.words))
        given = "_files -/" if flag.value.is_folder else f"compadd -- {words}"
        if flag.value != Suggestions():
            values.append(f"        ({_quoted(f'{node.path} {name}')}) {given}; return ;;\n")
    for node in all_nodes:
        flags = [_described(name, flag.help) for flag in node.flags for name in flag.names]
        commands = [_described(name, text) for name, text in node.commands.items()]
        arms.append(
            f"        ({_quoted(node.path)}) flags=({' '.join(flags)}) commands=({' '.join(commands)}) "
            f"values=({' '.join(map(_quoted, node.value.words))}) ;;"
        )
    return _ZSH.format(
        valued=_either(f"{node.path} {name}" for node, _, name in _value_flags(all_nodes)),
        commands=_either(node.path for node in all_nodes[1:]),
        values="".join(values), nodes="\n".join(arms),
    )  # fmt: skip


def _described(name: str, text: str) -> str:
    escaped = name.replace(":", "\\:")
    return _quoted(f"{escaped}:{text}" if text else escaped)


# ---- fish ------------------------------------------------------------------------------------------------

_FISH = """\
# fish completion of firelock, written by `firelock completion fish`
function __firelock_node
    set -l node firelock
    set -l is_value 0
    for word in (commandline -opc)[2..-1]
        if test $is_value = 1
            set is_value 0
            continue
        end
        switch "$node $word"
            case {valued}
                set is_value 1
            case {commands}
                set node "$node $word"
        end
    end
    test "$node" = "$argv[1]"
end
complete -c firelock -e
{lines}
"""


def _fish(all_nodes: Sequence[CommandNode]) -> str:
    lines = []
    for node in all_nodes:
        start = f"complete -c firelock -n {_fish_quoted(f'__firelock_node {_fish_quoted(node.path)}')}"
        lines += [f"{start} -f -a {_fish_quoted(name)} -d {_fish_quoted(text)}"
                  for name, text in node.commands.items()]  # fmt: skip
        if node.value.words:
            lines.append(f"{start} -f -a {_fish_quoted(' '.join(node.value.words))}")
        lines += [f"{start} {_fish_flag(flag)}" for flag in node.flags]
    return _FISH.format(
        valued=" ".join(_fish_quoted(f"{node.path} {name}") for node, _, name in _value_flags(all_nodes)),
        commands=" ".join(_fish_quoted(node.path) for node in all_nodes[1:]), lines="\n".join(lines),
    )  # fmt: skip


def _fish_flag(flag: Flag) -> str:
    words = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    if flag.value.words:
        words.append(f"-x -a {_fish_quoted(' '.join(flag.value.words))}")
    elif flag.value.is_folder:
        words.append("-x -a '(__fish_complete_directories)'")
    elif flag.takes_value:
        words.append("-r")
    return " ".join([*words, f"-d {_fish_quoted(flag.help)}"])


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_SCRIPTS: Mapping[str, Callable[[Sequence[CommandNode]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}

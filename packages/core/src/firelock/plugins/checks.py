"""Checks of plugins: problems of their functions, hookspecs and commands.

Each problem is returned as the end of a sentence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, MethodType

from firelock.model.text import did_you_mean
from firelock.plugins import hookspecs
from firelock.plugins.hookspecs import PROJECT, Command

_IMPL, _SPEC = f"{PROJECT}_impl", f"{PROJECT}_spec"
_FUNCTIONS = (FunctionType, MethodType, classmethod, staticmethod)  # pluggy ignores everything else
_CONTEXTS = frozenset({"enqueue_context", "job_context"})
_LISTS = frozenset({"register_commands"})  # of the core's hooks; hooks that plugins define return lists too


def place_of(distribution: str, version: str) -> str:
    """Return the source of a plugin: "acme-tenants 1.2", "app"."""
    return f"{distribution} {version}".strip()


def functions_marked(plugin: object) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the hook and function of everything marked `@hookimpl`; no property is read."""
    for name in dir(plugin):
        if not isinstance(inspect.getattr_static(plugin, name, None), _FUNCTIONS):
            continue
        function = getattr(plugin, name, None)
        marks = getattr(function, _IMPL, None)
        if inspect.isroutine(function) and isinstance(marks, dict):
            yield marks.get("specname") or name, function


def kind_problem(hook: str, function: Callable[..., object]) -> str | None:
    """Return why a function of this kind cannot be a hook; None if it can."""
    marks = getattr(function, _IMPL)
    if marks.get("wrapper") or marks.get("hookwrapper"):
        return (
            f"wraps {hook}; Firelock has no hook wrappers, so that one plugin's error cannot reach another. "
            "Implement the hook itself."
        )
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return (
            f"has {hook} as `async def`, which would never run: hooks are synchronous. Write `def`, and hand "
            "work that has to be awaited to an event loop or a thread of your own."
        )
    is_list = hook in _LISTS or not hasattr(getattr(hookspecs, hook, None), _SPEC)
    if is_list or not inspect.isgeneratorfunction(function):
        return None
    if hook in _CONTEXTS:
        return f"has {hook} as a generator; put @contextmanager between @hookimpl and its def."
    return f"has {hook} as a generator, which would never run: remove its `yield`."


def wrong_arguments(hook: str, function: Callable[..., object], known: Sequence[str]) -> str | None:
    """Return which arguments of the function its hook does not have; None if it has all of them."""
    parameters = inspect.signature(function).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [each.name for each in parameters if each.kind in plain and each.default is each.empty]
    wrong = [name for name in wanted if name not in known]
    if not wrong:
        return None
    near = did_you_mean(wrong[0], known)
    return (
        f"has {hook} with {', '.join(wrong)}, which the hook does not have. {near}Its arguments: "
        f"{', '.join(known) or 'none'}."
    )


def forgotten_self(hook: str, function: Callable[..., object], known: Sequence[str]) -> str | None:
    """Return the problem of a method without `self`, whose first parameter is one of its hook's arguments.

    Return None if there is no such problem.
    """
    if not isinstance(function, MethodType):
        return None
    first = next(iter(inspect.signature(function.__func__).parameters), None)
    if first not in known:
        return None
    return (
        f"has the method {hook} without self: its first parameter {first} would be the plugin, not what the "
        f"hook gives. Write def {hook}(self, {first}, …)."
    )


def hookspecs_problem(brought: object) -> str | None:
    """Return why the value returned by `register_hookspecs` has no hook; None if it has one."""
    members = {name: inspect.getattr_static(brought, name, None) for name in dir(brought)}
    if any(hasattr(member, _SPEC) for member in members.values()):
        return None
    hint = "Put @hookspec (from firelock import hookspec) above each def."
    for name, member in members.items():
        if hasattr(member, _IMPL):
            return (
                f"returned {brought!r:.200} from register_hookspecs, where {name} is under @hookimpl and "
                "not under @hookspec. If both are in one module, the later function replaces the "
                "earlier one: move the hookspecs into a module of their own."
            )
    names = [name for name, member in members.items() if inspect.isfunction(member) and name[:1] != "_"]
    if names:
        return (
            f"returned {brought!r:.200} from register_hookspecs, where {', '.join(names[:5])} is not under "
            f"@hookspec. {hint}"
        )
    return f"returned {brought!r:.200} from register_hookspecs, which has no functions. {hint}"


def command_problem(command: object) -> str | None:
    """Return why this cannot be a command of the command line; None if it can."""
    if not isinstance(command, Command):
        return (
            f"returned {command!r:.200} in the list of register_commands; return "
            "firelock.Command(name, help, configure, run) objects."
        )
    name = command.name
    if not isinstance(name, str) or not name or name[0] == "-" or not name.isprintable() or " " in name:
        return f"offers a command with the name {name!r:.80}; use one word."
    if not isinstance(command.help, str) or not command.help.strip():
        return f"offers the command {name!r} with help={command.help!r:.80}; give one sentence."
    for part in ("configure", "run"):
        function = getattr(command, part)
        if not callable(function):
            return f"offers the command {name!r} with {part}={function!r:.80}; give a function."
        if inspect.iscoroutinefunction(function):
            return (
                f"offers the command {name!r} with `{part}` as `async def`, which would never run; write "
                "`def`."
            )
    return None

"""Checks for problems in the functions, hookspecs and commands of plugins.

Each check returns a problem as part of a sentence that begins with the name of the plugin.
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
_LISTS = frozenset({"register_commands"})  # the core's hooks that return lists, as all other hooks do


def place_of(distribution: str, version: str) -> str:
    """Return the source of a plugin, for example "acme-tenants 1.2" or "app"."""
    return f"{distribution} {version}".strip()


def functions_marked(plugin: object) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the hook's name and the function of each `@hookimpl`; this does not read any properties."""
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
            f"wraps {hook}, but Firelock does not support hook wrappers, so that an error in one plugin "
            "cannot affect another. Implement the hook itself."
        )
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return (
            f"defines {hook} with `async def`, but hooks are synchronous, so it would never run. Use `def`, "
            "and run asynchronous work on your own event loop or in a thread."
        )
    is_list = hook in _LISTS or not hasattr(getattr(hookspecs, hook, None), _SPEC)
    if is_list or not inspect.isgeneratorfunction(function):
        return None
    if hook in _CONTEXTS:
        return f"defines {hook} as a generator function; add @contextmanager between @hookimpl and its def."
    return f"defines {hook} as a generator function, which would never run. Remove its `yield`."


def wrong_arguments(hook: str, function: Callable[..., object], known: Sequence[str]) -> str | None:
    """Return the problem of a function with arguments that its hook does not have; None if it has none."""
    parameters = inspect.signature(function).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [each.name for each in parameters if each.kind in plain and each.default is each.empty]
    wrong = [name for name in wanted if name not in known]
    if not wrong:
        return None
    near = did_you_mean(wrong[0], known)
    return (
        f"defines {hook} with arguments that the hook does not have: {', '.join(wrong)}. {near}Arguments of "
        f"the hook: {', '.join(known) or 'none'}."
    )


def forgotten_self(hook: str, function: Callable[..., object], known: Sequence[str]) -> str | None:
    """Return the problem of a method without `self`, whose first parameter is one of its hook's arguments.

    Return None if the method does not have this problem.
    """
    if not isinstance(function, MethodType):
        return None
    first = next(iter(inspect.signature(function.__func__).parameters), None)
    if first not in known:
        return None
    return (
        f"defines the method {hook} without self, so its first parameter, {first}, would receive the plugin "
        f"instead of the hook's argument. Use def {hook}(self, {first}, …)."
    )


def hookspecs_problem(returned: object) -> str | None:
    """Return why a value returned by `register_hookspecs` defines no hooks; None if it defines any."""
    members = {name: inspect.getattr_static(returned, name, None) for name in dir(returned)}
    if any(hasattr(member, _SPEC) for member in members.values()):
        return None
    hint = "Add @hookspec (from firelock import hookspec) above each def."
    for name, member in members.items():
        if hasattr(member, _IMPL):
            return (
                f"returned {returned!r:.200} from register_hookspecs, but {name} is marked @hookimpl "
                "instead of @hookspec. If one module defines both, the later function replaces the earlier "
                "one. Move the hookspecs to a separate module."
            )
    names = [name for name, member in members.items() if inspect.isfunction(member) and name[:1] != "_"]
    if names:
        return (
            f"returned {returned!r:.200} from register_hookspecs, but these functions are not marked "
            f"@hookspec: {', '.join(names[:5])}. {hint}"
        )
    return f"returned {returned!r:.200} from register_hookspecs, but it has no functions. {hint}"


def command_problem(command: object) -> str | None:
    """Return why this cannot be a command of the command line; None if it can."""
    if not isinstance(command, Command):
        return (
            f"returned {command!r:.200} in the list of register_commands; return "
            "firelock.Command(name, help, configure, run) objects."
        )
    name = command.name
    if not isinstance(name, str) or not name or name[0] == "-" or not name.isprintable() or " " in name:
        return f"offers a command named {name!r:.80}; use one printable word that does not begin with '-'."
    if not isinstance(command.help, str) or not command.help.strip():
        return f"offers the command {name!r} with help={command.help!r:.80}; pass one sentence."
    for part in ("configure", "run"):
        function = getattr(command, part)
        if not callable(function):
            return f"offers the command {name!r} with {part}={function!r:.80}; pass a function."
        if inspect.iscoroutinefunction(function):
            return (
                f"offers the command {name!r} with `{part}` as `async def`, which would never run; use `def`."
            )
    return None

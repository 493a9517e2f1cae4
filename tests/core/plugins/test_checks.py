"""The checks of plugins: an error for an invalid function, hookspec or command contains its name."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from firelock import Command, hookimpl, hookspec
from firelock.errors import PluginError
from firelock.plugins.loader import Plugins


def refused(plugin):
    """Return the error message for this plugin, without the plugin's name and the advice at the end."""
    with pytest.raises(PluginError) as caught:
        Plugins([plugin], use_entry_points=False).commands()
    text = str(caught.value)
    before, after = "Plugin 'P#0' of app ", " Fix it, or remove it from the app's plugins=[…]."
    assert text.startswith(before)
    assert text.endswith(after)
    return text.removeprefix(before).removesuffix(after)


def with_hook(**functions):
    """Return a plugin with these functions, each marked with @hookimpl."""
    return type("P", (), {name: hookimpl(function) for name, function in functions.items()})


# ---- functions -------------------------------------------------------------------------------------------


async def created_later(self, jobs): ...


async def panels_later(self, job):
    yield job


async def decide_later(self, error): ...


@pytest.mark.parametrize(
    ("hook", "function"),
    [
        ("jobs_created", created_later),
        ("retry_decision", decide_later),
        ("job_panels", panels_later),
    ],
    ids=["observer", "filter", "async generator"],
)
def test_async_hook_is_refused(hook, function):
    """Hooks are synchronous, so an async hook would never run."""
    assert refused(with_hook(**{hook: function})) == (
        f"defines {hook} with `async def`, but hooks are synchronous, so it would never run. Use `def`, and "
        "run asynchronous work on your own event loop or in a thread."
    )


def test_async_implementation_of_a_plugin_hook_is_refused():
    """The rule also applies to hooks that other plugins define."""

    @hookspec
    def greet(name): ...

    async def greet_later(self, name): ...

    plugin = with_hook(register_hookspecs=lambda self: SimpleNamespace(greet=greet), greet=greet_later)

    assert refused(plugin).startswith("defines greet with `async def`")


def test_generator_hook_that_would_never_run_is_refused():
    """Generators are allowed only for hooks that return a list. A context needs @contextmanager."""

    def created(self, jobs):
        yield

    def context(self, job):
        yield

    def commands(self):
        yield Command("greet", "Say hello.", lambda parser: None, lambda options: 0)

    assert refused(with_hook(jobs_created=created)) == (
        "defines jobs_created as a generator function, which would never run. Remove its `yield`."
    )
    assert refused(with_hook(job_context=context)) == (
        "defines job_context as a generator function; add @contextmanager between @hookimpl and its def."
    )
    good = with_hook(job_context=contextmanager(context), register_commands=commands)
    assert ["greet"] == [each.name for each in Plugins([good], use_entry_points=False).commands()][:1]


def test_error_for_an_unknown_argument_lists_valid_arguments():
    """The message also suggests a similar argument."""
    plugin = with_hook(job_context=lambda self, job, tsk: None)

    assert refused(plugin) == (
        "defines job_context with arguments that the hook does not have: tsk. Did you mean task? Arguments "
        "of the hook: job, task."
    )


# ---- hookspecs -------------------------------------------------------------------------------------------


def test_hookspecs_without_a_hook_are_refused():
    """The message contains the name of the function that has no mark or the wrong mark."""

    def house_rules(): ...

    def brings(brought):
        return refused(with_hook(register_hookspecs=lambda self: brought))

    assert "these functions are not marked @hookspec: house_rules. Add @hookspec (from" in brings(
        SimpleNamespace(house_rules=house_rules)
    )
    assert "house_rules is marked @hookimpl instead of @hookspec. If one module defines both" in brings(
        SimpleNamespace(house_rules=hookimpl(house_rules))
    )
    assert brings(None).startswith("returned None from register_hookspecs, but it has no functions.")


def test_error_contains_the_plugin_that_implements_the_hook():
    """The error does not mention the plugin that defines the hook as the cause."""

    @hookspec
    def greet(name): ...

    plugins = [
        type("Brings", (), {"register_hookspecs": hookimpl(lambda self: SimpleNamespace(greet=greet))}),
        type("Greets", (), {"greet": hookimpl(lambda self, nam: None)}),
    ]

    with pytest.raises(
        PluginError, match=r"'Greets#1' of app defines greet with arguments .*: nam\. Did you mean name\?"
    ):
        Plugins(plugins, use_entry_points=False)


# ---- commands --------------------------------------------------------------------------------------------


async def run_later(options): ...


def nothing(_):
    return 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (7, "returned a value of type int from register_commands; return a list, or None."),
        ("greet", "returned a value of type str from register_commands; return a list, or None."),
        (
            [("greet", "x")],
            "returned ('greet', 'x') in the list of register_commands; return firelock.Command(",
        ),
        (
            [Command("say hi", "Help.", nothing, nothing)],
            "offers a command named 'say hi'; use one printable word that does",
        ),
        (
            [Command("--hi", "Help.", nothing, nothing)],
            "offers a command named '--hi'; use one printable word that does",
        ),
        (
            [Command(7, "Help.", nothing, nothing)],
            "offers a command named 7; use one printable word that does",
        ),
        (
            [Command("hi", None, nothing, nothing)],
            "offers the command 'hi' with help=None; pass one sentence.",
        ),
        (
            [Command("hi", "Help.", None, nothing)],
            "offers the command 'hi' with configure=None; pass a function.",
        ),
        (
            [Command("hi", "Help.", nothing, run_later)],
            "offers the command 'hi' with `run` as `async def`, which",
        ),
        (
            [Command("hi", "Help.", nothing, nothing)] * 2,
            "offers a command named 'hi', but this name is already in use.",
        ),
    ],
)
def test_invalid_command_is_refused(answer, words):
    """The return value of register_commands is checked before the command line uses it."""
    assert refused(with_hook(register_commands=lambda self: answer)).startswith(words)

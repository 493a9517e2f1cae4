"""The loader of plugins, which calls their hooks and checks the returned values.

Each error names the plugin that caused it. No other module uses pluggy.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cache, lru_cache, partial
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

import attrs
import pluggy

from firelock.errors import ConfigurationError, FirelockError, PluginError, UnknownScheme
from firelock.model.meta import check_meta
from firelock.model.text import did_you_mean, message_of
from firelock.options import OPTION_NAMES, CallOptions
from firelock.plugins import hookspecs
from firelock.plugins.checks import (
    command_problem,
    forgotten_self,
    functions_marked,
    hookspecs_problem,
    kind_problem,
    place_of,
    wrong_arguments,
)
from firelock.plugins.hookspecs import PROJECT, Command, ServerInfo, TaskCall
from firelock.plugins.observers import EndObserver, SlowObservers
from firelock.storage import CONTRACT, Storage

if TYPE_CHECKING:
    from cattrs import Converter

    from firelock.arguments.serializer import Serializer
    from firelock.context import JobContext
    from firelock.model.job import ClaimedJob, NewJob, Settled, Transition
    from firelock.model.storage import OpenTransaction
    from firelock.options import TaskInfo
    from firelock.retry import RetryDecision
    from firelock.storage.locks import LockProvider

log = logging.getLogger(__name__)

T = TypeVar("T")

_SELECTION = "FIRELOCK_PLUGINS"

_SHOWN_NAMES = 10  # maximum number of plugins named in one message
_CAUSES = 20  # maximum number of chained exceptions that are searched for a password
# The dashboard defines these hooks. Plugins may implement them even if the dashboard is not installed.
_DASHBOARD_HOOKS = frozenset({"dashboard_pages", "job_panels", "dashboard_permission"})


of_process: dict[str, object] = {}
"""Firelock's own plugins for every app in this process, by name.

A server's process adds its job counters.
"""
on_probe_port: list[Callable[[], None]] = []
"""Functions that are called before an app's plugins load if its settings have a probe port.

A server's process adds one.
"""


@attrs.frozen
class PluginInfo:
    """The displayed properties of a loaded plugin."""

    name: str
    distribution: str  # "app" for a plugin of Firelock(plugins=[…]), "firelock" for the core's own
    version: str
    hooks: tuple[str, ...]

    def __str__(self) -> str:
        """Return the plugin's name and its source: "tenants (acme-tenants 1.2)"."""
        return f"{self.name} ({place_of(self.distribution, self.version)})"


@attrs.frozen
class BrokenPlugin:
    """An installed plugin that prevents every app from starting."""

    name: str
    distribution: str
    version: str
    problem: str


@attrs.frozen
class HookResult:
    """One plugin's result for a hook that another plugin or the dashboard defines."""

    plugin: str
    offered: tuple[object, ...] = ()
    error: PluginError | None = None
    """The reason why there is no result: the plugin raised an exception or did not return a list."""


class Plugins:
    """The plugins of one app.

    The hooks of installed plugins (entry points) run first, then those of the app's plugins, and the core's
    own last. Plugins are registered in the reverse order, because pluggy runs the plugin that was registered
    last first.

    Args:
        app_plugins: the app's own plugins.
        use_entry_points: whether installed plugins are loaded too.
        without: names of installed plugins to leave out, in addition to those that the environment excludes.
    """

    def __init__(
        self,
        app_plugins: Sequence[object] = (),
        *,
        use_entry_points: bool = True,
        without: Collection[str] = (),
    ) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._hooks = hook_names()
        self._sources: dict[str, tuple[str, str]] = {}
        self._loaded: dict[str, object] = {}
        self._ordered: dict[str, tuple[pluggy.HookImpl, ...]] = {}  # set after all plugins have loaded
        self._left_out: set[str] = set()  # plugins that the environment leaves out
        self.slow_observers = SlowObservers()
        self._register(_Core(), "core", "firelock", "")
        for name, own in of_process.items():
            self._register(own, name, "firelock", "")
        if not isinstance(app_plugins, list | tuple):
            raise ConfigurationError(f"plugins must be a list, got {app_plugins!r}. Pass plugins=[…].")
        for place, plugin in enumerate(app_plugins):
            name = getattr(plugin, "__name__", None) or type(plugin).__name__
            self._load(f"{name}#{place}", lambda plugin=plugin: plugin, "app", "")  # type: ignore[misc]
        if use_entry_points:
            installed = installed_plugins()
            names = {name for name, _, _, _ in installed}
            wanted = _selection(os.environ.get(_SELECTION, ""), names)
            self._left_out = {name for name in names if not wanted(name)}
            for name, load, source, its_version in installed:
                if wanted(name) and name not in without:
                    self._load(name, load, source, its_version)
        self._add_hookspecs()
        for name, plugin in self._loaded.items():
            self._check_functions(plugin, name)
        self._ordered = {hook: tuple(self._implementations(hook)) for hook in self._hooks}
        self._storages = self._factories("register_storages", "storage scheme")
        self._lock_providers = self._factories("register_lock_providers", "lock scheme")
        self.has_job_options = self._is_used("job_options")
        self.has_enqueue_context = self._is_used("enqueue_context")
        self.has_batch_meta = self._is_used("batch_meta")
        self.has_job_transaction = self._is_used("job_transaction")
        self.has_jobs_created = self._is_used("jobs_created")
        self.has_job_context = self._is_used("job_context")
        self.has_retry_decision = self._is_used("retry_decision")
        self.has_elect_transition = self._is_used("elect_transition")
        self.has_attempt_failed = self._is_used("attempt_failed")
        self.has_jobs_settled = self._is_used("jobs_settled")

    # ---- errors ------------------------------------------------------------------------------------------

    def fault(self, name: str, problem: str) -> PluginError:
        """Return the error about a plugin: its name and source, the problem, and how to start without it."""
        sentence = f"{self._place(name)} {problem} {self._remedy(name)}"
        return PluginError(sentence.rstrip(), plugin=name)

    def _place(self, name: str) -> str:
        return f"Plugin {name!r} of {place_of(*self._sources[name])}"

    def _remedy(self, name: str) -> str:
        if name == "core":
            return ""
        if self._sources[name][0] == "app":
            return "Fix it, or remove it from the app's plugins=[…]."
        return f"Fix or uninstall it, or set {_SELECTION}=-{name}."

    def _note(self, hook: str, implementation: pluggy.HookImpl, error: BaseException) -> None:
        """Add the plugin's name to an exception that is raised unchanged in the caller."""
        name = implementation.plugin_name
        note = f"{self._place(name)} raised this in {hook}. {self._remedy(name)}".rstrip()
        if note not in getattr(error, "__notes__", ()):  # one exception object may be raised repeatedly
            error.add_note(note)

    # ---- loading -----------------------------------------------------------------------------------------

    def _load(self, name: str, load: Callable[[], object], source: str, version: str) -> None:
        if name in self._sources:
            if self._sources[name] == (source, version):  # the Python path contains the distribution twice
                return
            raise PluginError(
                f"Two plugins are named {name!r}, one from {self._sources[name][0]} and one from {source}. "
                f"Uninstall one of them, or set {_SELECTION}=-{name}, which disables both.",
                plugin=name,
            )
        try:
            plugin = load()
            plugin = plugin() if inspect.isclass(plugin) else plugin
        except Exception as error:
            self._sources[name] = (source, version)
            raise self.fault(name, f"failed to load: {type(error).__name__}: {error}.") from error
        self._register(plugin, name, source, version)

    def _register(self, plugin: object, name: str, source: str, version: str) -> None:
        self._sources[name] = (source, version)
        for hook, function in functions_marked(plugin):
            if (problem := kind_problem(hook, function)) is not None:
                raise self.fault(name, problem)
        try:
            self._manager.register(plugin, name)
        except ValueError as error:
            raise self.fault(name, f"is the same object as another plugin: {error}.") from error
        except pluggy.PluginValidationError as error:
            raise self._mismatch(name, plugin, error) from error
        self._loaded[name] = plugin

    def _mismatch(self, name: str, plugin: object, error: Exception) -> PluginError:
        """Return the error of a plugin whose functions do not match their hooks."""
        for hook, function in functions_marked(plugin):
            caller = getattr(self._manager.hook, hook, None)
            if caller is not None and caller.spec is not None:
                problem = wrong_arguments(hook, function, caller.spec.argnames)
                if problem is not None:
                    return self.fault(name, problem)
        return self.fault(name, f"does not match the hooks that it implements: {error}.")

    def _add_hookspecs(self) -> None:
        """Add the hooks that plugins define, so that other plugins can implement them."""
        for implementation in self._implementations("register_hookspecs"):
            name = implementation.plugin_name
            specs = self._called("register_hookspecs", implementation, {})
            if (problem := hookspecs_problem(specs)) is not None:
                raise self.fault(name, problem)
            try:
                self._manager.add_hookspecs(specs)  # type: ignore[arg-type]  # pluggy accepts any object
            except pluggy.PluginValidationError as error:  # a plugin implements one of these hooks wrongly
                wrong = self._manager.get_name(error.plugin) or name
                raise self._mismatch(wrong, error.plugin, error) from error
            except ValueError as error:
                raise self.fault(name, f"defines a hook that cannot be added: {error}.") from error
            self._hooks += hook_names(specs)

    def _check_functions(self, plugin: object, name: str) -> None:
        """Raise an error for a plugin without hooks, or with a function that would never be called."""
        marked = dict(functions_marked(plugin))
        for hook in marked:
            if hook not in self._hooks and hook not in _DASHBOARD_HOOKS:
                known = ", ".join(self._hooks)
                near = did_you_mean(hook, self._hooks)
                raise self.fault(
                    name, f"implements {hook}, but no such hook exists. {near}Known hooks: {known}."
                )
        for hook, function in marked.items():
            caller = getattr(self._manager.hook, hook, None)
            if caller is not None and caller.spec is not None:
                problem = forgotten_self(hook, function, caller.spec.argnames)
                if problem is not None:
                    raise self.fault(name, problem)
        unmarked = [hook for hook in self._hooks if hook not in marked and _has_function(plugin, hook)]
        if unmarked:
            raise self.fault(
                name,
                f"has functions without @hookimpl, which would never be called: {', '.join(unmarked)}. Add "
                "@hookimpl (from firelock import hookimpl) directly above each def, or rename functions that "
                "are not hooks.",
            )
        if not marked:
            kind = type(plugin).__name__
            raise self.fault(
                name,
                f"has no hooks: {kind} must have at least one function with a hook's name and the mark "
                f"@hookimpl (from firelock import hookimpl). Known hooks: {', '.join(self._hooks)}.",
            )

    def _implementations(self, hook: str) -> Sequence[pluggy.HookImpl]:
        """Return the plugins' implementations of a hook, in the order of calls."""
        if self._ordered:
            return self._ordered.get(hook, ())
        caller = getattr(self._manager.hook, hook, None)
        return () if caller is None else tuple(reversed(caller.get_hookimpls()))

    def _is_used(self, hook: str) -> bool:
        return bool(self._implementations(hook))

    def _offers(self, hook: str, noun: str) -> Iterator[tuple[str, str, object]]:
        """Yield the plugin, name and value of each entry in the mappings that plugins return."""
        owners: dict[str, str] = {}
        for implementation in reversed(self._implementations(hook)):  # the core's own first
            plugin = implementation.plugin_name
            offers = self._called(hook, implementation, {})
            if not isinstance(offers, Mapping) or not all(isinstance(key, str) for key in offers):
                raise self.fault(
                    plugin,
                    f"returned {offers!r:.200} from {hook}; return a mapping whose keys are strings, one per "
                    f"{noun}.",
                )
            for key, offer in offers.items():
                if key in owners:
                    raise self.fault(
                        plugin, f"offers the {noun} {key!r}, which plugin {owners[key]!r} also offers."
                    )
                owners[key] = plugin
                yield plugin, key, offer

    def _factories(self, hook: str, noun: str) -> dict[str, _Factory]:
        found: dict[str, _Factory] = {}
        for plugin, key, offer in self._offers(hook, noun):
            if not callable(offer):
                raise self.fault(
                    plugin,
                    f"offers {offer!r:.200} for the {noun} {key!r}; return a function that accepts the URL.",
                )
            found[key] = _Factory(plugin, offer)
        return found

    def listing(self) -> list[PluginInfo]:
        """Return the loaded plugins in the order in which their hooks run."""
        infos = []
        for name, plugin in reversed(self._manager.list_name_plugin()):
            hooks = tuple(sorted(caller.name for caller in self._manager.get_hookcallers(plugin) or []))
            infos.append(PluginInfo(name, *self._sources[name], hooks))
        return infos

    def of_kind(self, kind: type[T]) -> T | None:
        """Return the loaded plugin that is an instance of this class; None if no plugin is."""
        return next((each for each in self._manager.get_plugins() if isinstance(each, kind)), None)

    # ---- registered values -------------------------------------------------------------------------------

    def open_storage(self, url: str) -> Storage:
        """Return the storage of a URL; this does no I/O.

        Raises:
            UnknownScheme: If no plugin offers the scheme.
            PluginError: If the storage implements another version of the contract.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            shown = f"…{url[url.rindex('@') :]}" if "@" in url else url  # the part before "@" may be secret
            raise ConfigurationError(
                f"{shown!r} is not a storage URL; use scheme://…, such as sqlite:///jobs.db or memory://."
            )
        factory = self._storages.get(scheme)
        if factory is None:
            known = ", ".join(sorted(self._storages))
            near = did_you_mean(scheme, self._storages, suffix="://")
            raise UnknownScheme(
                f"No storage for scheme {scheme!r}. {near}Installed: {known}. "
                f"{self._installation_hint(scheme)}."
            )
        return self._make_storage(factory, url, scheme)

    def _installation_hint(self, scheme: str) -> str:
        """Return how to make a scheme available: load a plugin that the environment omits, or install one."""
        hint = _install_hint(scheme)
        if not self._left_out:
            return hint
        left_out = f"{_SELECTION}={os.environ.get(_SELECTION, '')} excludes {_some(self._left_out)}"
        base = scheme.partition("+")[0]
        return left_out if {base, _EXTRAS.get(base)} & self._left_out else f"{left_out}. {hint}"

    def adopt_storage(self, engine: object) -> Storage:
        """Return a storage that uses an object of the caller, for example a SQLAlchemy Engine.

        The plugin that offers the scheme of the object's `url` creates the storage; its factory receives the
        object itself.
        """
        url = getattr(engine, "url", None)
        scheme = str(url).partition("://")[0].partition("+")[0]
        factory = self._storages.get(scheme) if url is not None else None
        if factory is None:
            raise ConfigurationError(
                f"storage must be a URL, a firelock.storage.Storage or a SQLAlchemy Engine, got {engine!r}."
            )
        return self._make_storage(factory, engine, scheme)

    def open_locks(self, url: str) -> LockProvider:
        """Return the lock provider of a URL.

        Raises:
            UnknownScheme: If no plugin offers the scheme.
            PluginError: If the factory fails, or returns something other than a lock provider.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise ConfigurationError(f"{url!r} is not the URL of a lock provider; use scheme://….")
        factory = self._lock_providers.get(scheme)
        if factory is None:
            known = ", ".join(sorted(self._lock_providers)) or "none"
            near = did_you_mean(scheme, self._lock_providers, suffix="://")
            of_storage = (
                "This is the scheme of a storage; remove locks= to keep locks in the app's own storage. "
                if scheme in self._storages
                else ""
            )
            raise UnknownScheme(
                f"No lock provider for scheme {scheme!r}. {of_storage}{near}Installed: {known}. "
                f"{self._installation_hint(scheme) if self._left_out else 'Install a plugin that offers it'}."
            )
        try:
            provider = factory.make(url)
        except FirelockError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin's error; it is raised with the plugin's name
            self._refuse(factory, url, scheme, error)
        for verb in ("acquire_lock", "renew_lock", "release_lock"):
            if not callable(getattr(provider, verb, None)):
                kind = type(provider).__name__
                raise self.fault(
                    factory.plugin,
                    f"returned {kind} for {scheme!r}, but {kind} has no method {verb}. Return a lock "
                    "provider.",
                )
        return provider  # type: ignore[return-value]  # its methods were checked above

    def serializers(self) -> dict[str, Serializer]:
        """Return all serializers by name, including the core's `json`.

        Raises:
            PluginError: If a plugin offers something other than a serializer, or a serializer under a name
                that is not its own.
        """
        from firelock.arguments.serializer import Serializer  # noqa: PLC0415 - loaded when an app is created

        serializers: dict[str, Serializer] = {}
        for plugin, name, offer in self._offers("register_serializers", "serializer"):
            if not isinstance(offer, Serializer) or offer.name != name:
                kind, own = type(offer).__name__, getattr(offer, "name", None)
                raise self.fault(
                    plugin,
                    f"offers {kind} as the serializer {name!r}; return a Serializer under its own name "
                    f"({own!r}), because jobs are stored with that name.",
                )
            serializers[name] = offer
        return serializers

    def commands(self, taken: Collection[str] = ()) -> list[Command]:
        """Return the commands that plugins offer.

        Args:
            taken: names that no plugin may use.

        Raises:
            PluginError: If a plugin returns something other than commands, or a command whose name is already
                in use.
        """
        found: dict[str, Command] = {}
        for implementation in self._implementations("register_commands"):
            plugin = implementation.plugin_name
            for offer in self._listed("register_commands", implementation, {}):
                if (problem := command_problem(offer)) is not None:
                    raise self.fault(plugin, problem)
                assert isinstance(offer, Command)  # noqa: S101 - just checked
                if offer.name in taken or offer.name in found:
                    raise self.fault(
                        plugin, f"offers a command named {offer.name!r}, but this name is already in use."
                    )
                configure = partial(self._configured, plugin, offer)
                found[offer.name] = attrs.evolve(offer, configure=configure)
        return list(found.values())

    def _configured(self, plugin: str, command: Command, parser: ArgumentParser) -> None:
        try:
            command.configure(parser)
        except Exception as error:
            description = f"{type(error).__name__}: {error}"
            raise self.fault(
                plugin, f"raised an exception in `configure` of its command {command.name!r}: {description}."
            ) from error

    def _make_storage(self, factory: _Factory, place: object, scheme: str) -> Storage:
        """Return the storage that a plugin creates from a URL or from an object of the caller.

        Raises:
            ConfigurationError: If the storage's driver cannot be imported, or the URL cannot be parsed.
            PluginError: If the object is not a storage, or implements another version of the contract.
        """
        try:
            storage = factory.make(place)
        except ImportError as error:
            raise ConfigurationError(
                f"The storage for scheme {scheme!r} cannot be imported: {error}. {_install_hint(scheme)}."
            ) from error
        except FirelockError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            url = str(getattr(place, "url", place))
            self._refuse(factory, url, scheme, error)
        if not isinstance(storage, Storage):
            kind = type(storage).__name__
            raise self.fault(
                factory.plugin, f"returned {kind} for {scheme!r}; return a firelock.storage.Storage."
            )
        try:
            return check_contract(storage)
        except PluginError as error:
            raise self.fault(factory.plugin, f"returned a storage that cannot be used. {error}") from None

    def _refuse(self, factory: _Factory, url: str, scheme: str, error: Exception) -> NoReturn:
        """Raise a ConfigurationError for an unreadable URL, otherwise the error about the plugin."""
        if isinstance(error, ValueError) and not _is_readable(url):
            raise ConfigurationError(
                f"The URL of scheme {scheme!r} cannot be parsed; check its brackets and its port."
            ) from None  # the cause might quote a password
        kind = type(error).__name__
        if _may_quote_password(url, error):
            problem = (
                f"raised {kind} for {scheme!r}; its message is omitted because it might contain the URL's "
                "password."
            )
            raise self.fault(factory.plugin, problem) from None
        description = f"{kind}: {message_of(error)}".rstrip(".: ")
        raise self.fault(factory.plugin, f"raised an exception for {scheme!r}: {description}.") from error

    # ---- configuration and filters -----------------------------------------------------------------------

    def configure_app(self, app: object) -> None:
        """Let every plugin change the app."""
        self._change("configure_app", app=app)

    def configure_converter(self, converter: Converter) -> None:
        """Let every plugin change the converter."""
        self._change("configure_converter", converter=converter)

    def _change(self, hook: str, **arguments: object) -> None:
        for implementation in self._implementations(hook):
            answer = self._answer(hook, implementation, arguments)
            if answer is not None and inspect.isawaitable(answer):
                raise self.fault(implementation.plugin_name, _never_awaited(hook, answer))

    def job_options(self, task: TaskInfo, call: TaskCall) -> Chosen:
        """Return the options that plugins choose for a call.

        Raises:
            PluginError: If a plugin returns something other than options.
        """
        options: dict[str, object] = {}
        answers = []
        arguments = {"task": task, "call": call}
        for implementation in self._implementations("job_options"):
            answer = self._answer("job_options", implementation, arguments)
            if answer is None:
                continue
            if not isinstance(answer, Mapping):
                raise self._wrong(
                    "job_options", implementation, answer, "return a mapping of options, or None"
                )
            if not answer.keys() <= _PLUGIN_OPTIONS:
                raise self._unknown_option(implementation.plugin_name, answer)
            answers.append((implementation.plugin_name, answer))
            meta: dict[str, str] = {}
            for given in (answer, options):
                if given.get("meta") is not None:
                    meta.update(self._checked_meta("job_options", implementation, given["meta"]))
            options = {**answer, **options, **({"meta": meta} if meta else {})}
        return Chosen(options, answers)

    def _unknown_option(self, plugin: str, answer: Mapping[str, object]) -> PluginError:
        option = next(name for name in answer if name not in _PLUGIN_OPTIONS)
        if option in OPTION_NAMES:
            return self.fault(plugin, f"returned {option} from job_options, which only the caller can set.")
        near = did_you_mean(str(option), _PLUGIN_OPTIONS)
        return self.fault(
            plugin,
            f"returned {option!r:.80} from job_options, an option that using(…) does not accept. {near}"
            f"Known options: {', '.join(sorted(_PLUGIN_OPTIONS))}.",
        )

    def wrong_option(self, chosen: Chosen, error: ConfigurationError) -> ConfigurationError:
        """Return the error for invalid options.

        The error names the plugin whose options are invalid even without those of other plugins. If there is
        no such plugin, return the given error.
        """
        for plugin, answer in chosen.answers:
            try:
                CallOptions(**answer)
            except ConfigurationError as own:
                return self.fault(plugin, f"returned an invalid option from job_options: {own}")
        return error

    def batch_meta(self, name: str) -> dict[str, str]:
        """Return the meta that plugins choose for a batch.

        For each name, the plugin that runs first has precedence.
        """
        meta: dict[str, str] = {}
        for implementation in reversed(self._implementations("batch_meta")):
            answer = self._answer("batch_meta", implementation, {"name": name})
            if answer is not None:
                meta.update(self._checked_meta("batch_meta", implementation, answer))
        return meta

    def _checked_meta(self, hook: str, implementation: pluggy.HookImpl, meta: object) -> Mapping[str, str]:
        try:
            return check_meta(meta)
        except ConfigurationError as error:
            raise self.fault(
                implementation.plugin_name, f"returned invalid meta from {hook}: {error}"
            ) from None

    def enqueue_contexts(
        self,
        task: TaskInfo | None,
        calls: Sequence[TaskCall],
        inherited: Mapping[str, str],
        created: Sequence[NewJob],
    ) -> list[AbstractContextManager[object]]:
        """Return the context managers in which jobs are created, outermost first.

        Raises:
            PluginError: If a plugin returns something other than a context manager.
        """
        arguments = {"task": task, "calls": calls, "inherited": inherited, "created": created}
        contexts: list[AbstractContextManager[object]] = []
        for implementation in self._implementations("enqueue_context"):
            answer = self._answer("enqueue_context", implementation, arguments)
            if answer is None:
                continue
            if not hasattr(type(answer), "__enter__"):
                raise self._wrong("enqueue_context", implementation, answer, _CONTEXT)
            contexts.append(answer)  # type: ignore[arg-type]  # just checked
        return contexts

    def job_transaction(self, storage: Storage, within: object | None) -> OpenTransaction | None:
        """Return the transaction in which new jobs are stored; None if no plugin returns one.

        Raises:
            PluginError: If a plugin returns something other than an `OpenTransaction`.
        """
        from firelock.model.storage import OpenTransaction  # noqa: PLC0415 - few apps have such a plugin

        arguments = {"storage": storage, "within": within}
        for implementation in self._implementations("job_transaction"):
            answer = self._answer("job_transaction", implementation, arguments)
            if isinstance(answer, OpenTransaction):
                return answer
            if answer is not None:
                wanted = "return a firelock.storage.OpenTransaction, or None"
                raise self._wrong("job_transaction", implementation, answer, wanted)
        return None

    def job_contexts(
        self, job: JobContext, task: TaskInfo
    ) -> list[AbstractContextManager[object] | AbstractAsyncContextManager[object]]:
        """Return the context managers in which a job runs, outermost first.

        For a `def` task, each of them can be entered without `await`.

        Raises:
            PluginError: If a plugin returns something other than such a context manager.
        """
        arguments = {"job": job, "task": task}
        contexts: list[AbstractContextManager[object] | AbstractAsyncContextManager[object]] = []
        for implementation in self._implementations("job_context"):
            answer = self._answer("job_context", implementation, arguments)
            if answer is None:
                continue
            kind = type(answer)
            if not hasattr(kind, "__enter__") and not (task.is_async and hasattr(kind, "__aenter__")):
                wanted = _CONTEXT
                if hasattr(kind, "__aenter__"):
                    wanted = (
                        f"only a coroutine can enter it, but {task.name!r} is a `def` task. If task.is_async "
                        "is false, return a context manager with __enter__ and __exit__"
                    )
                raise self._wrong("job_context", implementation, answer, wanted)
            contexts.append(answer)  # type: ignore[arg-type]  # just checked
        return contexts

    def retry_decision(
        self,
        job: JobContext,
        task: TaskInfo,
        error: BaseException,
        proposed: RetryDecision,
    ) -> tuple[str, RetryDecision] | None:
        """Return the name and the decision of the first plugin that decides; None if no plugin decides.

        Exceptions raised by plugins are logged.
        """
        from firelock.retry import RetryDecision  # noqa: PLC0415 - loaded only where jobs run

        found: tuple[str, RetryDecision] | None = self._first_fit(  # type: ignore[assignment]  # as checked
            "retry_decision",
            {"job": job, "task": task, "error": error, "proposed": proposed},
            lambda answer: isinstance(answer, RetryDecision),
            "return a RetryDecision, or None",
        )
        return found

    def elect_transition(
        self, job: ClaimedJob, proposed: Transition, fits: Callable[[object], bool]
    ) -> Transition | None:
        """Return the first transition that `fits` accepts; None if no plugin returns one."""
        elected: tuple[str, Transition] | None = self._first_fit(  # type: ignore[assignment]  # as checked
            "elect_transition",
            {"job": job, "proposed": proposed},
            fits,
            "return None, or a copy of `proposed` with the same job_id, from_states, session and fence",
        )
        return None if elected is None else elected[1]

    def _first_fit(
        self, hook: str, arguments: Mapping[str, object], fits: Callable[[object], bool], wanted: str
    ) -> tuple[str, object] | None:
        """Return the first value that `fits` accepts, together with its plugin's name.

        Exceptions raised by plugins and values that `fits` rejects are logged.
        """
        for implementation in self._implementations(hook):
            name = implementation.plugin_name
            try:
                answer = _call(implementation, arguments)
            except Exception:
                log.exception(
                    "%s raised an exception in %s; continuing as if it had returned None. %s",
                    self._place(name),
                    hook,
                    self._remedy(name),
                )
                continue
            if answer is None:
                continue
            if fits(answer):
                return name, answer
            log.error(  # not the value itself, because it might contain a job's arguments
                "%s returned an unsuitable value of type %s from %s; continuing as if it had returned None. "
                "In the plugin, %s. %s",
                self._place(name), type(answer).__name__, hook, wanted, self._remedy(name),
            )  # fmt: skip
        return None

    def _answer(self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
        """Return the value that a plugin's hook returns.

        Exceptions are passed on to the caller with a note that names the plugin.
        """
        try:
            return _call(implementation, arguments)
        except Exception as error:
            self._note(hook, implementation, error)
            raise

    def _wrong(self, hook: str, implementation: pluggy.HookImpl, answer: object, wanted: str) -> PluginError:
        kind = type(answer).__name__
        if inspect.iscoroutine(answer):
            answer.close()
        return self.fault(
            implementation.plugin_name, f"returned a value of type {kind} from {hook}; {wanted}."
        )

    # ---- observers ---------------------------------------------------------------------------------------

    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """Report the new jobs to every observer."""
        self._notify("jobs_created", jobs=jobs)

    def attempt_failed(self, job: ClaimedJob, error: BaseException, transition: Transition) -> None:
        """Report the failed attempt to every observer."""
        self._notify("attempt_failed", job=job, error=error, transition=transition)

    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """Report the ended attempts to every observer, in the calling thread."""
        self._notify("jobs_settled", settled=settled)

    def end_observers(self) -> list[EndObserver]:
        """Return the observers of ended attempts, in the order of calls."""
        return [
            EndObserver(one.plugin_name, one.function, partial(self._report_settled, one))
            for one in self._implementations("jobs_settled")
        ]

    def _report_settled(self, implementation: pluggy.HookImpl, settled: Sequence[Settled]) -> None:
        self._observe("jobs_settled", implementation, {"settled": settled})

    def server_started(self, server: ServerInfo) -> None:
        """Report to every observer that the server has started."""
        self._notify("server_started", server=server)

    def server_stopped(self, server: ServerInfo) -> None:
        """Report to every observer that the server has ended."""
        self._notify("server_stopped", server=server)

    def worker_process_started(self, server: ServerInfo) -> None:
        """Let plugins prepare this process; exceptions that they raise are passed on to the caller."""
        for implementation in self._implementations("worker_process_started"):
            try:
                answer = self._timed("worker_process_started", implementation, {"server": server})
            except Exception as error:
                self._note("worker_process_started", implementation, error)
                raise
            if answer is not None and inspect.isawaitable(answer):
                problem = _never_awaited("worker_process_started", answer)
                raise self.fault(implementation.plugin_name, problem)

    def worker_process_stopped(self, server: ServerInfo) -> None:
        """Let plugins clean up in this process."""
        self._notify("worker_process_stopped", server=server)

    def _notify(self, hook: str, **arguments: object) -> None:
        for implementation in self._implementations(hook):
            self._observe(hook, implementation, arguments)

    def _observe(self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> None:
        """Call one observer; log an exception that it raises."""
        name = implementation.plugin_name
        try:
            answer = self._timed(hook, implementation, arguments)
            if answer is not None and inspect.isawaitable(answer):
                raise self.fault(name, _never_awaited(hook, answer))
        except Exception:
            log.exception(
                "%s raised an exception in %s; no job is affected. %s",
                self._place(name),
                hook,
                self._remedy(name),
            )

    def _timed(self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
        """Call one observer; if it is slow, log its plugin's name."""
        began = time.monotonic()
        try:
            return _call(implementation, arguments)
        finally:
            self.slow_observers.note(implementation.plugin_name, hook, time.monotonic() - began)

    # ---- hooks that plugins and the dashboard define -----------------------------------------------------

    def call_each(self, hook: str, **arguments: object) -> list[object]:
        """Return the values that all plugins offer, in one list, in the order of calls.

        If a plugin raises an exception, or returns neither an iterable nor None, the problem is logged and
        the plugin's result is omitted.

        Raises:
            PluginError: If no plugin defines this hook.
            TypeError: If the hook has other arguments.
        """
        offered: list[object] = []
        for answer in self.results(hook, **arguments):
            if answer.error is not None:
                log.error("%s Its result is omitted.", answer.error, exc_info=answer.error)
            offered += answer.offered
        return offered

    def results(self, hook: str, **arguments: object) -> list[HookResult]:
        """Return the result or the error of each plugin that implements this hook, in the order of calls.

        Raises:
            PluginError: If no plugin defines this hook.
            TypeError: If the hook has other arguments.
        """
        self._check_arguments(hook, arguments)
        answers = []
        for implementation in self._implementations(hook):
            name = implementation.plugin_name
            try:
                answers.append(HookResult(name, tuple(self._listed(hook, implementation, arguments))))
            except PluginError as error:
                answers.append(HookResult(name, error=error))
        return answers

    def call_first(self, hook: str, **arguments: object) -> object | None:
        """Return the first value that is not None; None if no plugin returns one.

        Raises:
            PluginError: If a plugin raises an exception before another returns a value, or no plugin defines
                this hook.
            TypeError: If the hook has other arguments.
        """
        found = self.first_result(hook, **arguments)
        return None if found is None else found[1]

    def first_result(self, hook: str, **arguments: object) -> tuple[str, object] | None:
        """Return the name of the first plugin that returns a value other than None, and this value.

        Return None if no plugin returns one. Raises the same errors as `call_first`.
        """
        self._check_arguments(hook, arguments)
        for implementation in self._implementations(hook):
            if (answer := self._called(hook, implementation, arguments)) is not None:
                return implementation.plugin_name, answer
        return None

    def _check_arguments(self, hook: str, arguments: Mapping[str, object]) -> None:
        if hook not in self._hooks:
            if hook in _DASHBOARD_HOOKS:
                return
            near = did_you_mean(hook, self._hooks)
            raise PluginError(
                f"No plugin defines a hook {hook!r}. {near}Known hooks: {', '.join(self._hooks)}."
            )
        taken = getattr(self._manager.hook, hook).spec.argnames
        if set(arguments) != set(taken):
            given = ", ".join(arguments) or "none"
            raise TypeError(
                f"The hook {hook} has these arguments: {', '.join(taken) or 'none'}; got: {given}."
            )

    def _listed(
        self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]
    ) -> list[object]:
        answer = self._called(hook, implementation, arguments)
        if answer is None:
            return []
        if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping):
            raise self._wrong(hook, implementation, answer, "return a list, or None")
        try:
            return list(answer)
        except Exception as error:  # the error was raised by a generator
            raise self._raised(hook, implementation, error) from error

    def _called(self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
        try:
            return _call(implementation, arguments)
        except Exception as error:
            raise self._raised(hook, implementation, error) from error

    def _raised(self, hook: str, implementation: pluggy.HookImpl, error: Exception) -> PluginError:
        description = f"{type(error).__name__}: {error}".rstrip(".")
        return self.fault(implementation.plugin_name, f"raised an exception in {hook}: {description}.")


@attrs.frozen
class Chosen:
    """The options that plugins chose for one call."""

    options: dict[str, object]
    answers: Sequence[tuple[str, Mapping[str, Any]]]  # (plugin's name, options that the plugin returned)


@attrs.frozen
class _Factory:
    """A plugin's function that creates storages or lock providers."""

    plugin: str
    make: Callable[..., object]


_PLUGIN_OPTIONS = OPTION_NAMES - {"on", "within", "after"}  # these refer to objects that only the caller has
_CONTEXT = "return a context manager, or None"


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> object:
    return implementation.function(*[arguments[name] for name in implementation.argnames])


def _never_awaited(hook: str, answer: object) -> str:
    """Describe the problem of a hook that returned an awaitable; if this is a coroutine, close it."""
    if inspect.iscoroutine(answer):
        answer.close()
    return f"returned {type(answer).__name__} from {hook}, but hooks are synchronous, so it is never awaited."


def load_working(taken: Collection[str] = ()) -> tuple[Plugins, list[BrokenPlugin]]:
    """Return the installed plugins that work, and the broken ones with their problems.

    Args:
        taken: names that plugins must not use for their commands.
    """
    broken: dict[str, BrokenPlugin] = {}
    while True:
        try:
            plugins = Plugins(without=broken.keys())
            for command in plugins.commands(taken):
                command.configure(ArgumentParser(conflict_handler="resolve"))
            plugins.serializers()
        except PluginError as error:
            found = {name: (source, its_version) for name, _, source, its_version in installed_plugins()}
            name = error.plugin
            if name is None or name not in found or name in broken:
                raise
            broken[name] = BrokenPlugin(name, *found[name], str(error))
        else:
            return plugins, list(broken.values())


def open_storage(url: str, plugins: Sequence[object] = ()) -> Storage:
    """Return the storage of a URL, as an app would; this does no I/O."""
    return Plugins(plugins).open_storage(url)


def installed_plugins() -> list[tuple[str, Callable[[], object], str, str]]:
    """Return the name, loader, distribution and version of each installed plugin."""
    return _installed(distributions, tuple(map(_changed, sys.path)))


@lru_cache(maxsize=1)
def _installed(
    found: Callable[[], Iterable[Distribution]],
    path: tuple[object, ...],  # noqa: ARG001 - another or a changed path has other plugins
) -> list[tuple[str, Callable[[], object], str, str]]:
    """Return the name, loader, distribution and version of each installed plugin.

    The result is cached, because a search reads a file of every installed distribution.
    """
    return [
        (entry_point.name, entry_point.load, distribution.metadata["Name"], distribution.version)
        for distribution in found()
        for entry_point in distribution.entry_points
        if entry_point.group == PROJECT
    ]


def _changed(place: str) -> tuple[str, int]:
    """Return an entry of the Python path with the time of its last change, which an installation updates."""
    place = os.path.abspath(place)  # noqa: PTH100 - done again for each app; links need not be resolved
    try:
        return place, os.stat(place).st_mtime_ns  # noqa: PTH116 - as above
    except OSError:
        return place, 0


@cache
def installed_version() -> str:
    """Return the installed version of Firelock, or "" if it is not installed, for example in an archive."""
    try:
        return version("firelock")
    except PackageNotFoundError:
        return ""


def hook_names(specs: object = hookspecs) -> list[str]:
    """Return the names of the core's hooks, or of the hooks that a plugin defines, in order."""
    return [name for name, value in vars(specs).items() if hasattr(value, f"{PROJECT}_spec")]


def _has_function(plugin: object, name: str) -> bool:
    """Return whether the plugin has a callable of this name; no property is read."""
    found = inspect.getattr_static(plugin, name, None)
    return callable(found) or isinstance(found, classmethod)


def _selection(text: str, installed: Collection[str]) -> Callable[[str], bool]:
    """Return a function that decides whether to load an entry point.

    "sql,redis" loads only these two, "-redis" loads all except this one, and an empty string loads all.

    A name that no installed plugin has is logged but not refused, because one environment can serve several
    programs, which do not all have the same plugins.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name.removeprefix("-") not in installed:
            near = did_you_mean(name.removeprefix("-"), installed)
            log.warning(
                "%s contains %s, but no plugin of that name is installed, so it has no effect. %sInstalled: "
                "%s.",
                _SELECTION, name, near, ", ".join(sorted(installed)) or "none",
            )  # fmt: skip
    denied = {name[1:] for name in names if name.startswith("-")}
    allowed = {name for name in names if not name.startswith("-")}
    return lambda name: name not in denied and (not allowed or name in allowed)


# The extra that installs each scheme. Only extras that this version has are listed.
_EXTRAS = {"sqlite": "sql", "redis": "redis", "rediss": "redis", "unix": "redis"}


class _Core:
    """The core's own plugin, which uses the same hooks as other plugins."""

    @hookspecs.hookimpl
    def register_storages(self) -> Mapping[str, Callable[[str], Storage]]:
        """Offer the in-memory storage."""

        def memory(url: str) -> Storage:
            from firelock.storage.memory import MemoryStorage  # noqa: PLC0415 - loaded when first used

            return MemoryStorage(urlsplit(url).netloc)

        return {"memory": memory}

    @hookspecs.hookimpl
    def register_serializers(self) -> Mapping[str, Serializer]:
        """Offer strict JSON."""
        from firelock.arguments.serializer import JsonSerializer  # noqa: PLC0415 - loaded when first used

        return {"json": JsonSerializer()}


def check_contract(storage: Storage) -> Storage:
    """Return the storage after checking its contract.

    Raises:
        PluginError: If the storage has no contract version or another one, or its `__init__` was not called.
    """
    if getattr(storage, "contract", None) is None:
        kind = type(storage).__name__
        raise PluginError(
            f"{kind} does not declare a version of the storage contract. "
            f"Set contract = {CONTRACT} in its class if it was written for this version of Firelock."
        )
    if not getattr(storage, "_is_initialized", True):
        raise PluginError(
            f"{type(storage).__name__}.__init__ does not call super().__init__(), which sets attributes that "
            "the storage's methods use. Call it first."
        )
    if storage.contract != CONTRACT:
        raise PluginError(
            f"{type(storage).__name__} implements version {storage.contract} of the storage contract, but "
            f"this version of Firelock needs version {CONTRACT}. Install a matching version of the plugin."
        )
    return storage


def _is_readable(url: str) -> bool:
    """Return whether the URL's host and port can be read."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _may_quote_password(url: str, error: Exception) -> bool:
    """Return whether the message of an error or of one of its causes may contain the URL's password."""
    if not _is_readable(url):
        return "@" in url  # the password might be anywhere in it
    secret = urlsplit(url).password
    if not secret:
        return False
    cause: BaseException | None = error
    for _ in range(_CAUSES):
        if cause is None:
            return False
        text = message_of(cause)
        if secret in text or unquote(secret) in text:
            return True
        cause = cause.__cause__ or cause.__context__
    return True


def _some(names: Collection[str]) -> str:
    """Return the first of these names in order, and the number of the others."""
    shown = sorted(names)[:_SHOWN_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _install_hint(scheme: str) -> str:
    """Return the installation instructions for a scheme, for messages."""
    extra = _EXTRAS.get(scheme.partition("+")[0])
    return f'pip install "firelock[{extra}]"' if extra else "Install a plugin that offers it"

"""The only caller of pluggy: loads plugins, asks hooks, keeps a boolean for each that nobody implements."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import cache, lru_cache, partial
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
import pluggy

from firelock.errors import ConfigurationError, PluginError, UnknownScheme
from firelock.model.meta import check_meta
from firelock.plugins import hookspecs
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

_SELECTION = "FIRELOCK_PLUGINS"

# Hooks of the dashboard, which need not be installed: whoever implements them is not refused then.
_BROUGHT_BY_OTHERS = frozenset({"dashboard_pages", "job_panels", "dashboard_permission"})


@attrs.frozen
class PluginInfo:
    """A loaded plugin, for people."""

    name: str
    distribution: str  # "app" for one given to Firelock(plugins=[…]), "firelock" for the core's own
    version: str
    hooks: tuple[str, ...]


class Plugins:
    """The plugins of one app.

    Order of calls: entry points' first, then the app's, the core's own last; pluggy runs the last registered
    first, so they are registered the other way round.
    """

    def __init__(self, app_plugins: Sequence[object] = (), *, use_entry_points: bool = True) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._hooks = hook_names()
        self._sources: dict[str, tuple[str, str]] = {}
        self._loaded: dict[str, object] = {}
        self.slow_observers = SlowObservers()
        self._register(_Core(), "core", "firelock", "")
        if not isinstance(app_plugins, list | tuple):
            raise ConfigurationError(f"plugins={app_plugins!r} is no list; write plugins=[…].")
        for place, plugin in enumerate(app_plugins):
            name = getattr(plugin, "__name__", None) or type(plugin).__name__
            self._load(f"{name}#{place}", lambda plugin=plugin: plugin, "app", "")  # type: ignore[misc]
        if use_entry_points:
            wanted = _selection(os.environ.get(_SELECTION, ""))
            for name, load, source, its_version in _installed(distributions, tuple(map(_changed, sys.path))):
                if wanted(name):
                    self._load(name, load, source, its_version)
        self._add_hookspecs()
        for name, plugin in self._loaded.items():
            self._check_marks(plugin, name)
        self._check_hooks()
        self._storages = self._offers("register_storages", "storage scheme")
        self._lock_providers = self._offers("register_lock_providers", "lock scheme")
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

    # ---- loading -----------------------------------------------------------------------------------------

    def _register(self, plugin: object, name: str, distribution: str, version: str) -> None:
        try:
            self._manager.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"Plugin {name!r} of {distribution} cannot be registered: {error}") from error
        self._sources[name] = (distribution, version)
        self._loaded[name] = plugin

    def _add_hookspecs(self) -> None:
        """The hooks that plugins bring are known like the core's own."""
        for implementation in self._implementations("register_hookspecs"):
            brought = self._called("register_hookspecs", implementation)
            try:
                self._manager.add_hookspecs(brought)  # type: ignore[arg-type]  # it takes any object
            except (ValueError, pluggy.PluginValidationError) as error:
                raise PluginError(
                    f"The hooks that plugin {implementation.plugin_name!r} brings do not fit: {error}"
                ) from error
            self._hooks += hook_names(brought)
        for hook in _BROUGHT_BY_OTHERS.difference(self._hooks):
            for implementation in self._implementations(hook):
                implementation.optionalhook = True  # type: ignore[misc]  # passed over, not refused

    def _check_marks(self, plugin: object, name: str) -> None:
        """The plugin has a hook, and nothing that looks like one and would never be called."""
        source, version = self._sources[name]
        marked = {caller.name for caller in self._manager.get_hookcallers(plugin) or []}
        unmarked = [hook for hook in self._hooks if hook not in marked and _has_function(plugin, hook)]
        if marked and not unmarked:
            return
        place = f"Plugin {name!r} of {source} {version}".rstrip()
        instead = "" if source == "app" else f" Or leave the plugin out: {_SELECTION}=-{name}."
        if unmarked:
            message = (
                f"{place} has {', '.join(unmarked)} without @hookimpl, so it would never be called. Write "
                "@hookimpl (from firelock import hookimpl) right above its def; what is no hook needs "
                f"another name.{instead}"
            )
        else:
            message = (
                f"{place} has no hook: {type(plugin).__name__} is a plugin by functions that have a hook's "
                "name and stand under @hookimpl (from firelock import hookimpl). "
                f"Known: {', '.join(self._hooks)}.{instead}"
            )
        raise PluginError(message)

    def _load(self, name: str, load: Callable[[], object], source: str, version: str) -> None:
        if name in self._sources:
            if self._sources[name] == (source, version):  # one distribution that is found twice on the path
                return
            raise PluginError(
                f"Two plugins are named {name!r}: one of {self._sources[name][0]}, one of {source}. "
                f"Uninstall one, or set {_SELECTION}=-{name}."
            )
        try:
            plugin = load()
            plugin = plugin() if inspect.isclass(plugin) else plugin
        except Exception as error:
            place = f"{source} {version}".strip()
            instead = "Mend it." if source == "app" else f"Mend or uninstall it, or set {_SELECTION}=-{name}."
            raise PluginError(
                f"Plugin {name!r} of {place} failed to load: {type(error).__name__}: {error}. {instead}"
            ) from error
        self._register(plugin, name, source, version)

    def _check_hooks(self) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(
                f"A plugin implements a hook that does not exist: {error}. Known: {', '.join(self._hooks)}."
            ) from error
        for implementation in (one for hook in self._hooks for one in self._implementations(hook)):
            if implementation.wrapper or implementation.hookwrapper:
                hook = implementation.function.__name__
                raise PluginError(
                    f"Plugin {implementation.plugin_name!r} wraps {hook}; Firelock has no hook wrappers, so "
                    "that one plugin's error reaches no other. Implement the hook itself."
                )

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return what plugins have for a hook, the first to be asked first."""
        caller = getattr(self._manager.hook, hook, None)
        return [] if caller is None else list(reversed(caller.get_hookimpls()))

    def _is_used(self, hook: str) -> bool:
        return bool(self._implementations(hook))

    def _offers(self, hook: str, noun: str) -> dict[str, Callable[[str], object]]:
        found: dict[str, Callable[[str], object]] = {}
        sources: dict[str, str] = {}
        for implementation in reversed(self._implementations(hook)):  # the core's own first
            name = implementation.plugin_name
            offers = self._called(hook, implementation)
            if not isinstance(offers, Mapping) or not all(isinstance(key, str) for key in offers):
                raise PluginError(
                    f"Plugin {name!r} answered {hook} with {offers!r}; it takes a mapping by name."
                )
            for key, offer in offers.items():
                if key in found:
                    raise PluginError(
                        f"Plugins {sources[key]!r} and {name!r} both offer the {noun} {key!r}; keep one."
                    )
                found[key], sources[key] = offer, name
        return found

    def listing(self) -> list[PluginInfo]:
        """Return the loaded plugins in the order in which their hooks run."""
        infos = []
        for name, plugin in reversed(self._manager.list_name_plugin()):
            hooks = tuple(sorted(caller.name for caller in self._manager.get_hookcallers(plugin) or []))
            infos.append(PluginInfo(name, *self._sources[name], hooks))
        return infos

    # ---- what was registered -----------------------------------------------------------------------------

    def open_storage(self, url: str) -> Storage:
        """Return the storage of a URL; no I/O yet.

        Raises:
            UnknownScheme: no plugin offers the scheme.
            PluginError: the storage speaks another version of the contract.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            shown = f"…{url[url.rindex('@') :]}" if "@" in url else url  # what stands before it may be secret
            raise ConfigurationError(
                f"{shown!r} is not a storage URL; write scheme://…, such as sqlite:///jobs.db or memory://."
            )
        factory = self._storages.get(scheme)
        if factory is None:
            known = ", ".join(sorted(self._storages))
            raise UnknownScheme(
                f"No storage for scheme {scheme!r}. Installed: {known}. {_install_hint(scheme)}."
            )
        return _make_storage(factory, url, scheme)

    def adopt_storage(self, engine: object) -> Storage:
        """Return the storage that works on a caller's own object, such as a SQLAlchemy Engine.

        Asked is the plugin that offers the scheme of the object's `url`; its factory takes the object itself.
        """
        url = getattr(engine, "url", None)
        scheme = str(url).partition("://")[0].partition("+")[0]
        factory = self._storages.get(scheme) if url is not None else None
        if factory is None:
            raise ConfigurationError(
                f"{engine!r} is no storage; pass a URL, a firelock.storage.Storage or a SQLAlchemy Engine."
            )
        return _make_storage(factory, engine, scheme)

    def open_locks(self, url: str) -> LockProvider:
        """Return the lock provider of a URL.

        Raises:
            UnknownScheme: no plugin offers the scheme.
            PluginError: what the plugin made is no lock provider.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            raise ConfigurationError(f"{url!r} is not the URL of a lock provider; write scheme://….")
        factory = self._lock_providers.get(scheme)
        if factory is None:
            known = ", ".join(sorted(self._lock_providers)) or "none"
            raise UnknownScheme(
                f"No lock provider for scheme {scheme!r}. Installed: {known}. Install one that offers it."
            )
        provider = factory(url)
        for verb in ("acquire_lock", "renew_lock", "release_lock"):
            if not callable(getattr(provider, verb, None)):
                kind = type(provider).__name__
                raise PluginError(
                    f"The plugin for {scheme!r} returned {kind}, no lock provider: it has no {verb}."
                )
        return provider  # type: ignore[return-value]  # its verbs were looked at

    def serializers(self) -> dict[str, Serializer]:
        """Return every serializer by name, the core's `json` among them.

        Raises:
            PluginError: a plugin offers something else, or a serializer under another name than its own.
        """
        from firelock.arguments.serializer import Serializer  # noqa: PLC0415 - loaded when an app is made

        serializers: dict[str, Serializer] = {}
        for name, offer in self._offers("register_serializers", "serializer").items():
            if not isinstance(offer, Serializer) or offer.name != name:
                kind, own = type(offer).__name__, getattr(offer, "name", None)
                raise PluginError(
                    f"A plugin offers {kind} as the serializer {name!r}; it takes a Serializer under its own "
                    f"name, which is {own!r}: jobs are stored with it."
                )
            serializers[name] = offer
        return serializers

    def commands(self) -> list[Command]:
        """Return the commands that plugins offer."""
        return [command for commands in self._manager.hook.register_commands() for command in commands]

    # ---- asking ------------------------------------------------------------------------------------------

    def configure_app(self, app: object) -> None:
        """Every plugin has had its turn at the app."""
        self._manager.hook.configure_app(app=app)

    def configure_converter(self, converter: Converter) -> None:
        """Every plugin has had its turn at the converter."""
        self._manager.hook.configure_converter(converter=converter)

    def job_options(self, task: TaskInfo, call: TaskCall) -> dict[str, object]:
        """Return the options plugins choose for a call; the first answer wins, of meta for each name."""
        options: dict[str, object] = {}
        for answer in self._manager.hook.job_options(task=task, call=call):
            meta = {
                key: value
                for given in (answer, options)
                if given.get("meta") is not None
                for key, value in check_meta(given["meta"]).items()
            }
            options = {**answer, **options, **({"meta": meta} if meta else {})}
        return options

    def batch_meta(self, name: str) -> dict[str, str]:
        """Return what plugins have travel with a batch; of each name the first answer wins."""
        answers = self._manager.hook.batch_meta(name=name)
        return {key: value for given in reversed(answers) for key, value in check_meta(given).items()}

    def enqueue_contexts(
        self,
        task: TaskInfo | None,
        calls: Sequence[TaskCall],
        inherited: Mapping[str, str],
        made: Sequence[NewJob],
    ) -> list[AbstractContextManager[object]]:
        """Return the context managers to create jobs in, outermost first.

        Raises:
            PluginError: a plugin answered something else.
        """
        answers = self._manager.hook.enqueue_context(task=task, calls=calls, inherited=inherited, made=made)
        for answer in answers:
            if not hasattr(type(answer), "__enter__"):
                raise PluginError(
                    f"enqueue_context answered a value of type {type(answer).__name__}, which is no context "
                    "manager; return one, or None."
                )
        return list(answers)

    def job_transaction(self, storage: Storage, within: object | None) -> OpenTransaction | None:
        """Return the transaction that new jobs become part of; None where no plugin knows one."""
        chosen: OpenTransaction | None = self._manager.hook.job_transaction(storage=storage, within=within)
        return chosen

    def job_contexts(
        self, job: JobContext, task: TaskInfo
    ) -> list[AbstractContextManager[object] | AbstractAsyncContextManager[object]]:
        """Return the context managers to run a job in, outermost first."""
        return list(self._manager.hook.job_context(job=job, task=task))

    def retry_decision(
        self, job: JobContext, task: TaskInfo, error: BaseException, proposed: RetryDecision
    ) -> RetryDecision | None:
        """Return the first plugin's decision; None where nobody decides or the hook raised."""
        decision: RetryDecision | None = self._ask(  # type: ignore[assignment]
            "retry_decision", job=job, task=task, error=error, proposed=proposed
        )
        return decision

    def elect_transition(self, job: ClaimedJob, proposed: Transition) -> Transition | None:
        """Return the first plugin's transition; None where nobody objects or the hook raised."""
        elected: Transition | None = self._ask("elect_transition", job=job, proposed=proposed)  # type: ignore[assignment]
        return elected

    def _ask(self, hook: str, **arguments: object) -> object:
        answers = self._answers(hook, arguments)
        return next((answer for answer in answers if answer is not None), None)

    def _answers(self, hook: str, arguments: Mapping[str, object]) -> Iterator[object]:
        """Yield what each plugin answers; of one that raised, the log says so."""
        for implementation in self._implementations(hook):
            try:
                yield implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception:
                log.exception("Plugin %r raised in %s; no answer.", implementation.plugin_name, hook)

    # ---- reporting ---------------------------------------------------------------------------------------

    def jobs_created(self, jobs: Sequence[NewJob]) -> None:
        """Observers know of the new jobs."""
        self._tell("jobs_created", jobs=jobs)

    def attempt_failed(self, job: ClaimedJob, error: BaseException, transition: Transition) -> None:
        """Observers know of the failed attempt."""
        self._tell("attempt_failed", job=job, error=error, transition=transition)

    def jobs_settled(self, settled: Sequence[Settled]) -> None:
        """Report the ended attempts to every observer, in the thread of the caller."""
        self._tell("jobs_settled", settled=settled)

    def end_observers(self) -> list[EndObserver]:
        """Return the observers of ended attempts, in the order of calls."""
        return [
            EndObserver(one.plugin_name, one.function, partial(self._report_settled, one))
            for one in self._implementations("jobs_settled")
        ]

    def _report_settled(self, implementation: pluggy.HookImpl, settled: Sequence[Settled]) -> None:
        self._observe("jobs_settled", implementation, {"settled": settled})

    def server_started(self, server: ServerInfo) -> None:
        """Observers know of the server."""
        self._tell("server_started", server=server)

    def server_stopped(self, server: ServerInfo) -> None:
        """Observers know of the server's end."""
        self._tell("server_stopped", server=server)

    def worker_process_started(self, server: ServerInfo) -> None:
        """Let plugins prepare this process; an exception of a plugin is raised."""
        for implementation in self._implementations("worker_process_started"):
            self._timed("worker_process_started", implementation, {"server": server})

    def worker_process_stopped(self, server: ServerInfo) -> None:
        """Plugins have cleaned up in this process."""
        self._tell("worker_process_stopped", server=server)

    def _tell(self, hook: str, **arguments: object) -> None:
        for implementation in self._implementations(hook):
            self._observe(hook, implementation, arguments)

    def _observe(self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> None:
        """Call one observer; log an exception that it raises."""
        try:
            self._timed(hook, implementation, arguments)
        except Exception:
            log.exception("Plugin %r raised in %s; no job is touched.", implementation.plugin_name, hook)

    def _timed(self, hook: str, implementation: pluggy.HookImpl, arguments: Mapping[str, object]) -> None:
        """Call one observer; name it in the log if it is slow."""
        began = time.monotonic()
        try:
            implementation.function(*(arguments[name] for name in implementation.argnames))
        finally:
            self.slow_observers.note(implementation.plugin_name, hook, time.monotonic() - began)

    # ---- hooks of others ---------------------------------------------------------------------------------

    def ask_each(self, hook: str, **arguments: object) -> list[object]:
        """Return what every plugin offers, in one list; a plugin that raised has its error in the place."""
        offered: list[object] = []
        for implementation in self._implementations(hook):
            try:
                offered += self._asked(hook, implementation, **arguments)
            except PluginError as error:
                offered.append(error)
        return offered

    def ask_first(self, hook: str, **arguments: object) -> object | None:
        """Return the first plugin's answer that is not None; None where there is none.

        Raises:
            PluginError: a plugin raised before anybody answered.
        """
        answers = (self._called(hook, one, **arguments) for one in self._implementations(hook))
        return next((answer for answer in answers if answer is not None), None)

    def _asked(self, hook: str, implementation: pluggy.HookImpl, **arguments: object) -> list[object]:
        answer = self._called(hook, implementation, **arguments)
        if answer is None:
            return []
        if not isinstance(answer, Iterable) or isinstance(answer, str | bytes):
            raise PluginError(
                f"Plugin {implementation.plugin_name!r} returned a {type(answer).__name__} from "
                f"{hook}; return a list."
            )
        try:
            return list(answer)
        except Exception as error:  # of a generator
            raise _raised(hook, implementation, error) from error

    def _called(self, hook: str, implementation: pluggy.HookImpl, **arguments: object) -> object:
        try:
            return implementation.function(*(arguments[name] for name in implementation.argnames))
        except Exception as error:
            raise _raised(hook, implementation, error) from error


def _raised(hook: str, implementation: pluggy.HookImpl, error: Exception) -> PluginError:
    place = f"Plugin {implementation.plugin_name!r} raised in {hook}"
    return PluginError(f"{place}: {type(error).__name__}: {error}")


def open_storage(url: str, plugins: Sequence[object] = ()) -> Storage:
    """Return the storage of a URL, found as an app would find it; no I/O yet."""
    return Plugins(plugins).open_storage(url)


@lru_cache(maxsize=1)
def _installed(
    found: Callable[[], Iterable[Distribution]],
    path: tuple[object, ...],  # noqa: ARG001 - another path, or a changed one, has others
) -> list[tuple[str, Callable[[], object], str, str]]:
    """Return the plugins that are installed, by name, with their distribution and version.

    They are looked for once, as each look reads a file of every distribution there is.
    """
    return [
        (entry_point.name, entry_point.load, distribution.metadata["Name"], distribution.version)
        for distribution in found()
        for entry_point in distribution.entry_points
        if entry_point.group == PROJECT
    ]


def _changed(place: str) -> tuple[str, int]:
    """Return a place of the path with the time of its last change: an installation changes it."""
    place = os.path.abspath(place)  # noqa: PTH100 - resolved anew for each app, and what is linked is the same
    try:
        return place, os.stat(place).st_mtime_ns  # noqa: PTH116 - likewise
    except OSError:
        return place, 0


@cache
def installed_version() -> str:
    """Return which version of Firelock is installed; "" where none is, as in an archive."""
    try:
        return version("firelock")
    except PackageNotFoundError:
        return ""


def hook_names(specs: object = hookspecs) -> list[str]:
    """Return the names of the core's hooks, or of those that a plugin brings, in order."""
    return [name for name, value in vars(specs).items() if hasattr(value, f"{PROJECT}_spec")]


def _has_function(plugin: object, name: str) -> bool:
    """Tell whether the plugin has something to call by this name; no property is read."""
    found = inspect.getattr_static(plugin, name, None)
    return callable(found) or isinstance(found, classmethod)


def _selection(text: str) -> Callable[[str], bool]:
    """Return which entry points to load: "sql,redis" only these, "-redis" all but this, empty all."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    denied = {name[1:] for name in names if name.startswith("-")}
    allowed = {name for name in names if not name.startswith("-")}
    return lambda name: name not in denied and (not allowed or name in allowed)


# Of each scheme the extra that brings it. Only those stand here that this version has.
_EXTRAS = {"sqlite": "sql", "redis": "redis", "rediss": "redis", "unix": "redis"}


class _Core:
    """The core's own plugin: the same hooks as strangers use."""

    @hookspecs.hookimpl
    def register_storages(self) -> Mapping[str, Callable[[str], Storage]]:
        """Offer the storage in memory."""

        def memory(url: str) -> Storage:
            from firelock.storage.memory import MemoryStorage  # noqa: PLC0415 - loaded when first used

            return MemoryStorage(urlsplit(url).netloc)

        return {"memory": memory}

    @hookspecs.hookimpl
    def register_serializers(self) -> Mapping[str, Serializer]:
        """Offer strict JSON."""
        from firelock.arguments.serializer import JsonSerializer  # noqa: PLC0415 - loaded when first used

        return {"json": JsonSerializer()}


def _make_storage(factory: Callable[..., object], place: object, scheme: str) -> Storage:
    """Return the storage that a plugin makes of a URL, or of a caller's own object.

    Raises:
        ConfigurationError: its driver cannot be imported, or it cannot read the URL.
        PluginError: it is no storage, or one for another version of the contract.
    """
    try:
        made = factory(place)
    except ImportError as error:
        raise ConfigurationError(
            f"The storage for scheme {scheme!r} cannot be imported: {error}. {_install_hint(scheme)}."
        ) from error
    except ConfigurationError:
        raise
    except ValueError:
        raise ConfigurationError(
            f"The storage URL of scheme {scheme!r} cannot be read; look at its brackets and its port."
        ) from None  # the cause may quote a password
    if not isinstance(made, Storage):
        raise PluginError(
            f"The plugin for {scheme!r} returned {type(made).__name__}, no firelock.storage.Storage."
        )
    return check_contract(made)


def check_contract(storage: Storage) -> Storage:
    """Return the storage; PluginError where it speaks another version of the contract, or does not say."""
    if getattr(storage, "contract", None) is None:
        kind = type(storage).__name__
        raise PluginError(
            f"{kind} does not say for which version of the storage contract it was written. "
            f"Write contract = {CONTRACT} in its class if it was written for this Firelock."
        )
    if storage.contract != CONTRACT:
        raise PluginError(
            f"{type(storage).__name__} speaks version {storage.contract} of the storage contract, this "
            f"Firelock version {CONTRACT}. Install a version of the plugin that matches."
        )
    return storage


def _install_hint(scheme: str) -> str:
    """Return what to install for a scheme, for messages."""
    extra = _EXTRAS.get(scheme.partition("+")[0])
    return f'pip install "firelock[{extra}]"' if extra else "Install a plugin that offers it"

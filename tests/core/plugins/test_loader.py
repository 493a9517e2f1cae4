"""Loading of plugins: how they are found, checked when they load, and called in order."""

from __future__ import annotations

import functools
import traceback
import types
from importlib.metadata import EntryPoint
from urllib.parse import urlsplit

import attrs
import pytest

from firelock import Firelock, hookimpl
from firelock.arguments.serializer import JsonSerializer
from firelock.errors import ConfigurationError, PluginError, StorageError, UnknownScheme
from firelock.plugins.loader import PluginInfo, Plugins, load_working, open_storage
from firelock.storage import CONTRACT, Storage, shown_url
from firelock.storage.memory import MemoryStorage

# ---- installed plugins -----------------------------------------------------------------------------------


@attrs.frozen
class FakeDistribution:
    """An installed distribution, as importlib.metadata returns it."""

    name: str
    version: str
    entry_points: tuple[EntryPoint, ...]

    @property
    def metadata(self):
        return {"Name": self.name}


class FakeEntryPoint:
    """An entry point that returns its object or fails."""

    def __init__(self, name, plugin=None, *, error=None, group="firelock"):
        self.name, self.group = name, group
        self.plugin, self.error = plugin, error

    def load(self):
        if self.error is not None:
            raise self.error
        return self.plugin


@pytest.fixture
def install(monkeypatch):
    """Return a function that replaces the installed distributions: name, version, entry points."""

    def install(*found):
        distributions = [FakeDistribution(name, version, points) for name, version, *points in found]
        monkeypatch.setattr("firelock.plugins.loader.distributions", lambda: distributions)

    return install


class Quiet:
    """A plugin that implements one hook and does nothing."""

    @hookimpl
    def jobs_created(self, jobs): ...


def names(plugins):
    """Return the names of the loaded plugins, without the core's own."""
    return [info.name for info in plugins.listing() if info.name != "core"]


def test_installed_plugins_are_loaded_from_entry_points(install):
    """Each plugin is listed with its distribution, version and hooks. Other groups are ignored."""
    install(
        (
            "acme-tenants",
            "1.2",
            FakeEntryPoint("tenants", Quiet),
            FakeEntryPoint("x", group="console_scripts"),
        )
    )

    plugins = Plugins()

    assert PluginInfo("tenants", "acme-tenants", "1.2", ("jobs_created",)) == plugins.listing()[0]
    assert ["tenants"] == names(plugins)


def test_plugin_installed_later_is_found(tmp_path, monkeypatch):
    """An app created later finds the plugin. The cached list is valid only until something changes."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_plugin.py").write_text(
        "from firelock import hookimpl\nclass Late:\n    @hookimpl\n    def jobs_created(self, jobs): ...\n"
    )
    before = names(Plugins())
    info = tmp_path / "late-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[firelock]\nlate = late_plugin:Late\n")

    assert {"late"} == {*names(Plugins())} - {*before}


@pytest.mark.parametrize(
    ("selection", "loaded"),
    [
        (" a , c ", ["c", "a"]),
        ("-b", ["c", "a"]),
        ("a,b,-b", ["a"]),
        ("-a,-b,-c", []),
        ("-b,b", []),
        ("nobody", []),
    ],
)
def test_environment_variable_selects_plugins(install, monkeypatch, selection, loaded):
    """A name includes a plugin, and a name with a minus sign excludes it. Exclusion takes precedence.

    Excluded plugins are not imported.
    """
    broken = FakeEntryPoint("b", error=ImportError("no driver"))
    install(("acme", "1", FakeEntryPoint("a", Quiet), broken, FakeEntryPoint("c", Quiet)))
    monkeypatch.setenv("FIRELOCK_PLUGINS", selection)

    assert loaded == names(Plugins())


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            "-lmbd",
            "-lmbd, but no plugin of that name is installed, so it has no effect. Did you mean lmdb? Inst",
        ),
        ("tenants,sqll", "FIRELOCK_PLUGINS contains sqll, but no plugin of that name is installed"),
        ("-lmdb,tenants", ""),
        ("", ""),
    ],
)
def test_unknown_name_in_the_environment_is_logged(install, monkeypatch, caplog, selection, message):
    """An unknown name is not an error, because programs with different plugins can share an environment."""
    install(("acme", "1", FakeEntryPoint("lmdb", Quiet), FakeEntryPoint("tenants", Quiet)))
    monkeypatch.setenv("FIRELOCK_PLUGINS", selection)

    Plugins()

    assert bool(message) == bool(caplog.messages)
    assert message in "".join(caplog.messages)


def test_plugin_that_fails_to_load_raises(install):
    """The message contains the plugin, its distribution, the cause and the setting that excludes it."""
    install(("acme", "1.2", FakeEntryPoint("broken", error=RuntimeError("boom"))))

    with pytest.raises(
        PluginError, match=r"'broken' of acme 1\.2 failed to load: RuntimeError: boom\..*=-broken"
    ):
        Plugins()


def test_plugin_class_that_cannot_be_instantiated_raises():
    """A class is instantiated without arguments."""

    class Demanding:
        def __init__(self, engine): ...

    with pytest.raises(PluginError, match=r"'Demanding#0' of app failed to load: TypeError.*engine"):
        Plugins([Demanding], use_entry_points=False)


def test_two_plugins_with_the_same_name_are_refused(install):
    """Otherwise, the name would be ambiguous in settings."""
    install(("acme", "1", FakeEntryPoint("tenants", Quiet)), ("other", "2", FakeEntryPoint("tenants", Quiet)))

    with pytest.raises(
        PluginError, match=r"Two plugins are named 'tenants', one from acme and one from other\."
    ):
        Plugins()


def test_distribution_that_is_found_twice_is_loaded_once(install):
    """A distribution can be on the path twice without a conflict."""
    install(("acme", "1", FakeEntryPoint("tenants", Quiet)), ("acme", "1", FakeEntryPoint("tenants", Quiet)))

    assert ["tenants"] == names(Plugins())


# ---- plugins of an app -----------------------------------------------------------------------------------


def make_module():
    """Return a module with a hook."""
    module = types.ModuleType("acme_hooks")

    @hookimpl
    def jobs_created(jobs): ...

    module.jobs_created = jobs_created
    return module


def test_plugins_of_an_app_can_be_classes_instances_or_modules():
    """The name of each plugin contains its class or module and its index in the list."""
    plugins = Plugins([Quiet, Quiet(), make_module()], use_entry_points=False)

    assert ["acme_hooks#2", "Quiet#1", "Quiet#0"] == names(plugins)
    assert {"app"} == {info.distribution for info in plugins.listing() if info.name != "core"}


def test_plugins_of_an_app_do_not_affect_other_apps():
    with Firelock("memory://", plugins=[Quiet]) as one, Firelock("memory://") as other:
        assert (True, False) == (one.plugins.has_jobs_created, other.plugins.has_jobs_created)


class Misspelt:
    """A plugin whose hook has an unknown argument."""

    @hookimpl
    def jobs_created(self, job): ...


@pytest.mark.parametrize(
    ("plugins", "words"),
    [
        ([plugin := Quiet(), plugin], "'Quiet#1' of app is the same object as another plugin"),
        (
            [Misspelt],
            r"'Misspelt#0' of app defines jobs_created with .*: job\. Did you mean jobs\? .*: jobs\. Fix it",
        ),
    ],
    ids=["twice", "misspelt argument"],
)
def test_plugin_that_cannot_be_registered_raises(plugins, words):
    """The same plugin must not be passed twice. A hook must not have unknown arguments."""
    with pytest.raises(PluginError, match=words):
        Plugins(plugins, use_entry_points=False)


@pytest.mark.parametrize("plugins", [Quiet, "acme.plugin", None, 7])
def test_plugins_must_be_a_list(plugins):
    """The message for a single plugin contains the fix."""
    with pytest.raises(ConfigurationError, match=r"plugins must be a list, got .*\. Pass plugins=\["):
        Firelock("memory://", plugins=plugins)


class Unmarked:
    """A plugin in which some hooks lack the mark."""

    @hookimpl
    def jobs_settled(self, settled): ...

    def jobs_created(self, jobs): ...

    def retry_decision(self, job): ...


class NoFunction:
    """A plugin whose marked object is not a function, so it would not be called."""

    jobs_created = hookimpl(functools.partial(print, "created"))

    @hookimpl
    def jobs_settled(self, settled): ...


def make_unmarked_module():
    """Return a module with a hook and an unmarked function that has the name of a hook."""
    module = make_module()
    module.jobs_settled = lambda settled: None
    return module


@pytest.mark.parametrize(
    ("plugin", "named"),
    [
        (Unmarked, "jobs_created, retry_decision"),
        (NoFunction, "jobs_created"),
        (make_unmarked_module(), "jobs_settled"),
    ],
    ids=["class", "no function", "module"],
)
def test_unmarked_hook_raises(install, plugin, named):
    """Such a function would never be called. The error contains its name, for every kind of plugin."""
    install(("acme", "1.2", FakeEntryPoint("tenants", plugin)))

    with pytest.raises(
        PluginError,
        match=rf"'tenants' of acme 1\.2 has functions without @hookimpl, .*: {named}\. .*=-tenants",
    ):
        Plugins()
    with pytest.raises(
        PluginError,
        match=rf"#0' of app has functions without @hookimpl, .*: {named}\. .*directly above each def",
    ):
        Plugins([plugin], use_entry_points=False)


@pytest.mark.parametrize(
    "plugin",
    [object(), "acme.plugin", types.ModuleType("acme_hooks"), type("Helper", (), {"help": print}), None],
    ids=["object", "text", "module", "class", "nothing"],
)
def test_plugin_without_a_hook_raises(install, plugin):
    """Without the error, such an object would be loaded silently."""
    install(("acme", "1.2", FakeEntryPoint("tenants", plugin)))

    with pytest.raises(PluginError, match=r"'tenants' of acme 1\.2 has no hook.*=-tenants"):
        Plugins()
    with pytest.raises(
        PluginError, match=r"#0' of app has no hook.*@hookimpl.*Known hooks: register_hookspecs, "
    ):
        Plugins([plugin], use_entry_points=False)


@pytest.mark.parametrize("plugin", [{"jobs_setled": None}, {"job_contxt": None}], ids=["observer", "filter"])
def test_unknown_hook_raises(install, plugin):
    """The message suggests a similar hook and lists all hooks."""
    [misspelt] = plugin
    right = {"jobs_setled": "jobs_settled", "job_contxt": "job_context"}[misspelt]
    install(
        ("acme", "1.2", FakeEntryPoint("tenants", type("P", (), {misspelt: hookimpl(lambda self: None)})))
    )

    with pytest.raises(
        PluginError,
        match=rf"'tenants' of acme 1\.2 implements {misspelt}, .* Did you mean {right}\? Known .*=-tenants",
    ):
        Plugins()


def test_plugin_error_has_the_name_of_the_plugin():
    """Programs can report the name. It is None if the error does not belong to a single plugin."""
    with pytest.raises(PluginError) as named:
        Plugins([Misspelt], use_entry_points=False)
    with pytest.raises(PluginError) as unnamed:
        Plugins().call_each("nothing")

    assert ("Misspelt#0", None) == (named.value.plugin, unnamed.value.plugin)


def test_load_working_omits_and_reports_broken_plugins(install):
    """This applies to problems in every phase of the start."""
    install(
        ("cracked", "1", FakeEntryPoint("cracked", error=RuntimeError("boom"))),
        ("acme", "2", FakeEntryPoint("good", Quiet), FakeEntryPoint("odd", Misspelt)),
        ("late", "3", FakeEntryPoint("late", offering("register_serializers", xml="xml"))),
        ("cli", "4", FakeEntryPoint("cli", type("P", (), {"register_commands": hookimpl(lambda self: 7)}))),
    )

    plugins, broken = load_working()

    assert ["good"] == names(plugins)
    assert {
        ("cracked", "cracked", "1"),
        ("odd", "acme", "2"),
        ("late", "late", "3"),
        ("cli", "cli", "4"),
    } == {(each.name, each.distribution, each.version) for each in broken}
    assert all(f"FIRELOCK_PLUGINS=-{each.name}" in each.problem for each in broken)


def test_attribute_that_is_not_a_function_can_have_a_hook_name():
    """Such attributes are not checked."""

    class Busy:
        job_options = ("queue", "bulk")

        @property
        def job_panels(self):
            raise AssertionError

        @hookimpl
        def jobs_created(self, jobs): ...

    assert ["Busy#0"] == names(Plugins([Busy], use_entry_points=False))


@pytest.mark.parametrize("mark", ["wrapper", "hookwrapper"])
def test_hook_wrapper_is_refused(mark):
    """A plugin cannot wrap the hooks of other plugins."""

    class Wrapping:
        @hookimpl(**{mark: True})
        def jobs_created(self, jobs):
            yield

    with pytest.raises(
        PluginError,
        match=r"'Wrapping#0' of app wraps jobs_created, but Firelock does not support hook wrappers",
    ):
        Plugins([Wrapping], use_entry_points=False)


class Selfless:
    """Plugins with a method that lacks its first parameter."""

    class Filter:
        @hookimpl
        def retry_decision(job, task, error, proposed): ...  # noqa: N805

    class Observer:
        @hookimpl
        def jobs_created(jobs): ...  # noqa: N805

    class OfTheClass:
        @classmethod
        @hookimpl
        def jobs_created(jobs): ...  # noqa: N804


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            Selfless.Filter,
            "defines the method retry_decision without self, so its first parameter, job, would",
        ),
        (
            Selfless.Observer(),
            "defines the method jobs_created without self, so its first parameter, jobs, would",
        ),
        (
            Selfless.OfTheClass,
            "defines the method jobs_created without self, so its first parameter, jobs, would",
        ),
    ],
)
def test_method_without_self_is_refused(plugin, message):
    """The first parameter of such a method would receive the plugin instead of the argument of the hook."""
    with pytest.raises(PluginError, match=message):
        Plugins([plugin], use_entry_points=False)


def test_function_does_not_need_self():
    """In a module or with @staticmethod, the first parameter is an argument of the hook."""
    module = types.ModuleType("shop_hooks")

    @hookimpl
    def jobs_created(jobs): ...

    module.jobs_created = jobs_created
    fixed = type("Fixed", (), {"jobs_created": staticmethod(jobs_created)})

    assert ["Fixed#1", "shop_hooks#0"] == names(Plugins([module, fixed], use_entry_points=False))


# ---- registration ----------------------------------------------------------------------------------------


def offering(hook, **offers):
    """Return a plugin that offers these values in this hook."""

    def offer(self):
        return offers

    return type(f"Offers{'And'.join(offers)}", (), {hook: hookimpl(offer)})


def test_names_of_the_core_cannot_be_replaced():
    """The names of the core are the scheme memory:// and the serializer json."""
    with pytest.raises(
        PluginError,
        match="'Offersmemory#0' of app offers the storage scheme 'memory', which plugin 'core' also offers",
    ):
        Plugins([offering("register_storages", memory=MemoryStorage)], use_entry_points=False)
    with pytest.raises(PluginError, match=r"'Offersjson#0' .* the serializer 'json', which plugin 'core' "):
        Firelock("memory://", plugins=[offering("register_serializers", json=JsonSerializer())])


@pytest.mark.parametrize("hook", ["register_storages", "register_lock_providers", "register_serializers"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda self: None, "returned None from {}; return a mapping"),
        (lambda self: ["acme"], r"returned \['acme'\] from {}; return a mapping"),
        (lambda self: {7: MemoryStorage}, "returned .* from {}; return a mapping"),
        (lambda self: 1 / 0, "raised an exception in {}: ZeroDivisionError: division by zero"),
    ],
    ids=["nothing", "list", "number", "error"],
)
def test_registration_hook_must_return_a_mapping(hook, answer, words):
    """If the hook returns another value or raises, the error contains the plugin and the hook."""
    plugin = type("Odd", (), {hook: hookimpl(answer)})

    with pytest.raises(PluginError, match=f"'Odd#0' of app {words.format(hook)}"):
        Firelock("memory://", plugins=[plugin])


def test_serializer_must_be_registered_under_its_name():
    """The name is stored with each job, so jobs could not be read under another name."""

    class Rot13(JsonSerializer):
        name = "rot13"

    with pytest.raises(PluginError, match=r"serializer 'rot14'; .* own name \('rot13'\), because jobs"):
        Firelock("memory://", plugins=[offering("register_serializers", rot14=Rot13())])
    with pytest.raises(PluginError, match="offers str as the serializer 'rot13'"):
        Firelock("memory://", plugins=[offering("register_serializers", rot13="rot13")])


def test_unknown_serializer_raises():
    """The message lists the installed serializers and suggests a similar name."""
    with pytest.raises(ConfigurationError, match=r"Serializer 'xml' is unknown\. Installed: json\."):
        Firelock("memory://", serializer="xml")
    with pytest.raises(
        ConfigurationError, match=r"'jsno' is unknown\. Did you mean json\? Installed: json\."
    ):
        Firelock("memory://", serializer="jsno")


@pytest.mark.parametrize("hook", ["register_storages", "register_lock_providers"])
def test_factory_of_a_scheme_must_be_a_function(hook):
    """Otherwise, the mistake would become visible only when the scheme is used."""
    with pytest.raises(
        PluginError, match=r"'Offersacme#0' of app offers 'acme\.Storage' for the .* scheme 'acme'"
    ):
        Firelock("memory://", plugins=[offering(hook, acme="acme.Storage")])


# ---- storages by URL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (
            "mongo://x",
            r"No storage for scheme 'mongo'\. Installed: .*memory.*\. Install a plugin that offers it\.",
        ),
        ("redis+x://y", r"No storage for scheme 'redis\+x'\. .*pip install \"firelock\[redis\]\""),
        ("MEMORY://", r"No storage for scheme 'MEMORY'\. Did you mean memory://\? Installed"),
        ("memroy://", r"No storage for scheme 'memroy'\. Did you mean memory://\? Installed"),
        ("://", "No storage for scheme ''"),
    ],
)
def test_unknown_scheme_raises(url, hint):
    """The message contains the scheme, the installed schemes and the package to install."""
    with pytest.raises(UnknownScheme, match=hint):
        open_storage(url)


@pytest.mark.parametrize("url", ["jobs.db", "sqlite:jobs.db", "memory", "memory:/x"])
def test_storage_url_without_a_separator_raises(url):
    """The error contains the required format."""
    with pytest.raises(ConfigurationError, match=f"'{url}' is not a storage URL; use scheme://"):
        open_storage(url)


def test_messages_do_not_contain_passwords():
    """Passwords are hidden even in strings that are not URLs."""
    for url in ("anna:secret@host/jobs", "mongo://anna:secret@host/jobs"):
        with pytest.raises(ConfigurationError) as caught:
            open_storage(url)
        assert "secret" not in str(caught.value)


def test_factory_must_return_a_storage():
    """The message contains the plugin and the class of the returned value."""
    with pytest.raises(
        PluginError,
        match=r"'Offersacme#0' of app returned dict for 'acme'; return a firelock\.storage\.Storage\. Fix it",
    ):
        open_storage("acme://", [offering("register_storages", acme=lambda url: {})])


def test_storage_with_another_contract_version_is_refused():
    """The version is checked before the storage is used."""

    class Old(MemoryStorage):
        contract = CONTRACT - 1

    with pytest.raises(
        PluginError, match=f"implements version 0 of the storage contract, but this version .* {CONTRACT}"
    ):
        open_storage("acme://", [offering("register_storages", acme=Old)])
    with pytest.raises(PluginError, match="Old implements version 0"):
        Firelock(Old())


def test_storage_must_declare_its_contract_version():
    """Without a declaration, a storage would inherit the version of the installed Firelock."""
    verbs = {name: lambda self: None for name in Storage.__abstractmethods__}
    silent = type("Silent", (Storage,), verbs)

    with pytest.raises(
        PluginError, match=rf"Silent does not declare .* Set contract = {CONTRACT} in its class"
    ):
        open_storage("acme://", [offering("register_storages", acme=lambda url: silent())])
    with pytest.raises(PluginError, match="Silent does not declare"):
        Firelock(silent())


def test_missing_driver_raises_with_its_module():
    """The driver is missing when the factory imports it."""

    def factory(url):
        import no_such_driver  # noqa: F401

    with pytest.raises(ConfigurationError, match=r"scheme 'acme' cannot be imported: .*'no_such_driver'"):
        open_storage("acme://", [offering("register_storages", acme=factory)])


def failing(error, *, cause=None):
    """Return a factory that raises this error."""

    def factory(url):
        raise error from cause

    return factory


@pytest.mark.parametrize("hook", ["register_storages", "register_lock_providers"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("invalid literal for int() with base 10: 'abc'"), "ValueError: invalid literal .* 'abc'"),
        (AttributeError("no attribute 'map'"), "AttributeError: no attribute 'map'"),
        (OSError("no such folder"), "OSError: no such folder"),
    ],
)
def test_error_of_a_factory_contains_the_plugin(hook, error, message):
    """The message contains the plugin's name and the original message. The original error is the cause."""
    locks = "acme://x" if hook == "register_lock_providers" else None
    plugin = offering(hook, acme=failing(error))

    with pytest.raises(
        PluginError, match=rf"'Offersacme#0' of app raised an exception for 'acme': {message}\. Fix"
    ) as caught:
        Firelock("memory://" if locks else "acme://x", locks=locks, plugins=[plugin])

    assert caught.value.__cause__ is error
    assert caught.value.plugin == "Offersacme#0"


def test_firelock_errors_of_a_factory_are_raised_unchanged():
    """For example, a factory can report an unknown option."""
    error = ConfigurationError("The option synk is unknown. Did you mean sync?")

    with pytest.raises(ConfigurationError) as caught:
        open_storage("acme://x", [offering("register_storages", acme=failing(error))])

    assert caught.value is error


@pytest.mark.parametrize("url", ["acme://host:port/x", "acme://[::1/x", "acme://anna:se/cret@host/x"])
def test_url_that_cannot_be_parsed_raises(url):
    """The message contains neither the plugin nor the URL."""

    def factory(url):
        return MemoryStorage(str(urlsplit(url).port))

    with pytest.raises(
        ConfigurationError, match="URL of scheme 'acme' cannot be parsed; check its"
    ) as caught:
        open_storage(url, [offering("register_storages", acme=factory)])

    assert not isinstance(caught.value, PluginError)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [ValueError("cannot parse 'se%63ret'"), OSError("secret is refused"), RuntimeError("see the cause")],
)
def test_error_of_a_factory_does_not_contain_passwords(error):
    """If the original error or its cause contains the password, neither of them is shown or chained."""
    factory = failing(error, cause=ValueError("secret") if isinstance(error, RuntimeError) else None)

    with pytest.raises(
        PluginError,
        match=r"raised \w+Error for 'acme'; its message is omitted because it might contain the URL",
    ) as caught:
        open_storage("acme://anna:se%63ret@host/x", [offering("register_storages", acme=factory)])

    shown = "".join(traceback.format_exception(caught.value))
    assert "secret is" not in shown
    assert "se%63ret'" not in shown


def test_storage_that_does_not_call_super_init_is_refused():
    """The message contains the missing call."""

    class Forgetful(MemoryStorage):
        def __init__(self, url):
            self.path = url

    message = r"Forgetful\.__init__ does not call super\(\)\.__init__\(\)"
    with pytest.raises(PluginError, match=rf"'Offersacme#0' of app returned a storage .* {message}"):
        open_storage("acme://x", [offering("register_storages", acme=Forgetful)])
    with pytest.raises(PluginError, match=message):
        Firelock(Forgetful("x"))


@pytest.mark.parametrize(
    ("url", "selection", "message"),
    [
        ("lmdb://x", "-lmdb", r"'lmdb'\. Installed: memory\. FIRELOCK_PLUGINS=-lmdb excludes lmdb\.$"),
        ("sqlite:///x", "-sql,-lmdb", r"FIRELOCK_PLUGINS=-sql,-lmdb excludes lmdb, sql\.$"),
        ("mydb://x", "sql", r"FIRELOCK_PLUGINS=sql excludes lmdb\. Install a plugin that offers it\.$"),
        ("mydb://x", "", r"Installed: memory\. Install a plugin that offers it\.$"),
    ],
)
def test_error_for_a_scheme_lists_excluded_plugins(install, monkeypatch, url, selection, message):
    """The error also contains the setting. This applies to storages and lock providers."""
    install(("acme", "1", FakeEntryPoint("lmdb", Quiet), FakeEntryPoint("sql", Quiet)))
    monkeypatch.setenv("FIRELOCK_PLUGINS", selection)

    with pytest.raises(UnknownScheme, match=message):
        open_storage(url)
    if selection:
        with pytest.raises(UnknownScheme, match=r"FIRELOCK_PLUGINS=.* excludes lmdb"):
            Firelock("memory://", locks=url)


@attrs.frozen
class Engine:
    """An object with a URL, like an SQLAlchemy engine."""

    url: str


def test_engine_is_passed_to_the_plugin_of_its_scheme():
    """The plugin receives the object itself. The name of the driver in the URL does not matter."""
    seen = []

    def factory(engine):
        seen.append(engine)
        return MemoryStorage()

    with Firelock(Engine("acme+fast://here"), plugins=[offering("register_storages", acme=factory)]) as fire:
        assert "memory://" == fire.storage.url

    assert [Engine("acme+fast://here")] == seen


@pytest.mark.parametrize("storage", [7, object(), Engine("nobody://"), Engine(None)])
def test_invalid_storage_raises(storage):
    """The message contains the value and the accepted types."""
    with pytest.raises(
        ConfigurationError, match=r"storage must be a URL, a firelock\.storage\.Storage or .*, got "
    ):
        Firelock(storage)


# ---- locks by URL ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locks", "words"),
    [
        (
            "etcd://",
            r"No lock provider for scheme 'etcd'\. Installed: .*acme.*\. Install a plugin that offers it\.",
        ),
        ("acne://", r"No lock provider for scheme 'acne'\. Did you mean acme://\? Installed: .*acme"),
        ("acme", "'acme' is not the URL of a lock provider; use scheme://"),
        (
            "memory://",
            r"'memory'\. This is the scheme of a storage; remove locks= to keep locks in the app's",
        ),
        (
            "acme://",
            "'Offersacme#0' .* dict for 'acme', but dict has no method acquire_lock. Return a lock provider.",
        ),
    ],
)
def test_invalid_lock_provider_raises(locks, words):
    """The scheme must be known, and the object must have the methods of a provider."""
    plugin = offering("register_lock_providers", acme=lambda url: {})

    with pytest.raises(ConfigurationError, match=words):
        Firelock("memory://", locks=locks, plugins=[plugin])


# ---- URLs in messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://anna:secret@host:5432/jobs", "postgresql://anna:***@host:5432/jobs"),
        ("redis://:secret@host/0", "redis://:***@host/0"),
        ("postgresql://anna:s%40cret@host/jobs?x=1#y", "postgresql://anna:***@host/jobs?x=1#y"),
        ("postgresql://anna:se@cret@host/jobs", "postgresql://anna:***@host/jobs"),
        ("postgresql://anna@host/jobs", "postgresql://anna@host/jobs"),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("memory://", "memory://"),
    ],
)
def test_url_is_shown_without_its_password(url, shown):
    """The rest of the URL stays readable."""
    assert shown == shown_url(url)


def test_url_that_cannot_be_parsed_is_not_shown():
    """Such a URL could contain a password anywhere."""
    with pytest.raises(StorageError) as caught:
        shown_url("redis://anna:secret@[::1/0")

    assert "secret" not in str(caught.value)


# ---- calling hooks ---------------------------------------------------------------------------------------


def answering(hook, answer, log, name):
    """Return a plugin that records its call and returns or raises `answer`."""

    def called(self):
        log.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return type(name, (), {hook: hookimpl(called)})


def test_hooks_run_from_entry_points_then_from_last_to_first(install):
    """Plugins from entry points run first. Plugins of the app follow, beginning with the last in its list."""
    log = []
    install(("acme", "1", FakeEntryPoint("installed", answering("jobs_created", None, log, "installed"))))

    plugins = Plugins([answering("jobs_created", None, log, name) for name in ("a", "b")])
    plugins.jobs_created([])

    assert ["installed", "b", "a"] == log
    assert ["installed", "b#1", "a#0", "core"] == [info.name for info in plugins.listing()]

"""The public API, one line per name: `python -m tests.repository.public_api` rewrites public_api.txt.

The packages are read, not imported. A name belongs to the first path that exports it, and other paths refer
to it. A name in parentheses is a class that no path exports but that an app has or returns, such as
`fire.jobs`. Names that begin with an underscore are omitted, and so are the kit's checks, which begin with
test_.
"""

from __future__ import annotations

import re
from pathlib import Path

import griffe

from tests.repository.sources import ROOT

FILE = Path(__file__).with_name("public_api.txt")
COMMAND = "python -m tests.repository.public_api"
PACKAGES = ("firelock", "firelock_sql", "firelock_redis", "firelock_dashboard")
FOLDERS = ("firelock.integrations", "firelock.compat")  # each module in these folders is a public path
# parts of several integrations, each of which exports their public names
SHARED = ("carrier", "request_meta")
HOOKS = ("firelock.plugins.hookspecs", "firelock_dashboard.hookspecs")
# Internal parts of an app: it has these attributes for the core's other modules.
INSIDE = ("Client", "Plugins", "Registry", "Runtime")
HIDDEN = ("__repr__", "__slots__")
FIELD_MAKERS = ("attrs.field", "field", "attrs.Factory", "Factory")


def public_paths(modules):
    """Return the import paths that users may rely on; a name shared by several belongs to the first."""
    paths = ["firelock", "firelock.storage", "firelock.limits", "firelock.testing"]
    for folder in FOLDERS:
        paths += [f"{folder}.{name}" for name in sorted(modules[folder].modules) if name not in SHARED]
    return [*paths, *PACKAGES[1:]]


class PublicApi:
    """The lines of the file, and the state of their collection."""

    def __init__(self):
        loader = griffe.GriffeLoader(search_paths=[str(path) for path in ROOT.glob("packages/*/src")])
        for package in PACKAGES:
            loader.load(package)
        loader.resolve_aliases(implicit=False, external=False)
        self.modules = loader.modules_collection
        self.paths = public_paths(self.modules)
        self.lines = set()
        self.names = {}  # the public name of an object, by the path of its definition
        self.reached = []  # classes that no path exports, but an app has or returns, such as `fire.jobs`
        for path in self.paths:
            self.add_module(path, self.modules[path])
        for path in HOOKS:
            for hook in self.modules[path].functions.values():
                if any(str(mark.value).startswith("hookspec") for mark in hook.decorators):
                    self.add_function(f"hook {hook.name}", hook)
        for target in self.reached:  # the list grows during the loop
            if target.path not in self.names and target.name not in INSIDE:
                self.add(f"({target.name})", target)

    def add_module(self, path, module):
        """Add the names that a module exports; if it has no __all__, the names that it defines."""
        self.lines.add(f"{path}: module")
        names = module.exports
        if names is None:
            defined = [name for name, one in module.members.items() if not (one.is_alias or one.is_module)]
            names = filter(is_public, defined)
        for name in map(str, names):
            target = behind(module.members[name])
            if target.is_module:
                self.add_module(f"{path}.{name}", target)
            elif target.path in self.names:
                self.lines.add(f"{path}.{name} = {self.names[target.path]}")
            else:
                self.add(f"{path}.{name}", target)

    def add(self, name, target):
        """Add a name, and the names in it."""
        self.names[target.path] = name
        if target.is_class:
            self.add_class(name, target)
        elif target.is_function:
            self.add_function(name, target)
        else:
            self.add_attribute(name, target)

    def add_class(self, name, target):
        """Add a class; members inherited from a public class are shown only there."""
        bases = f"({', '.join(map(str, target.bases))})" if target.bases else ""
        made_by = [str(mark.value) for mark in target.decorators if str(mark.value).startswith("attrs.")]
        fields = [
            field
            for field, one in target.members.items()
            if made_by and one.is_attribute and one.annotation and "ClassVar" not in str(one.annotation)
        ]
        line = f"{name}: class{bases}"
        self.lines.add(f"{line} @{made_by[0]} of {', '.join(fields)}" if made_by else line)
        for member, one in {**target.inherited_members, **target.members}.items():
            found = behind(one)
            is_ours = found.path.startswith(PACKAGES)
            is_shown = is_public(member) or (is_dunder(member) and found.is_function)
            if member == "__init__" and name.startswith("("):
                continue  # an app creates it, users do not
            if (
                is_ours
                and is_shown
                and not member.startswith("test_")
                and not self.is_shown_by_base(target, found)
            ):
                if found.is_class:
                    self.add(f"{name}.{member}", found)
                elif found.is_function:
                    self.add_function(f"{name}.{member}", found)
                else:
                    self.add_attribute(f"{name}.{member}", found)

    def is_shown_by_base(self, target, member):
        """Return whether a public base class shows the same member."""
        if member.parent is not target:
            return member.parent.path in self.names
        inherited = [base.members.get(member.name) for base in target.mro() if base.path in self.names]
        return member.is_function and any(
            one is not None and one.is_function and signatures(one) == signatures(member) for one in inherited
        )

    def add_function(self, name, target):
        """Add a line for each signature that a function has for type checkers."""
        self.lines.update(f"{name}: {signature}" for signature in signatures(target))
        for one in target.overloads or [target]:
            self.reach(name, one.returns)

    def add_attribute(self, name, target):
        """Add a constant, a field or a property, with its initial value."""
        kind, value = str(target.annotation or ""), target.value
        if "property" in target.labels:
            self.reach(name, target.annotation)
            self.lines.add(f"{name}: {kind} @property")
        elif target.parent.is_class and "class-attribute" not in target.labels:
            made = self.found(value.function) if isinstance(value, griffe.ExprCall) else None
            if made is not None and made.is_class:
                kind = made.name
                self.reach(name, value.function)
            self.lines.add(f"{name}: {kind}" if kind else name)
        else:
            start = beginning(value)
            self.lines.add(f"{name}{f': {kind}' if kind else ''}{f' = {start}' if start else ''}")

    def reach(self, name, expression):
        """Note the classes in an expression, if the name belongs to an app or to one of its results."""
        if name.startswith(("firelock.Firelock.", "(")) and isinstance(expression, griffe.Expr):
            found = [self.found(part) for part in expression.iterate(flat=True)]
            self.reached += [one for one in found if one is not None and one.is_class and is_public(one.name)]

    def found(self, part):
        """Return the object behind a name in an expression, or None if it is not in Firelock's packages."""
        path = part.canonical_path if isinstance(part, griffe.ExprName) else ""
        try:
            return behind(self.modules[path]) if path.startswith(PACKAGES) else None
        except (KeyError, griffe.AliasResolutionError):
            return None


def is_public(name):
    """Return whether a name is for users."""
    return not name.startswith("_")


def is_dunder(name):
    """Return whether the name is a special name of Python that users may rely on."""
    return name.startswith("__") and name.endswith("__") and name not in HIDDEN


def behind(one):
    """Return the definition behind an import."""
    return one.final_target if one.is_alias else one


def signatures(target):
    """Return each signature that a function has for type checkers."""
    marks = "".join(f"@{mark} " for mark in ("classmethod", "staticmethod") if mark in target.labels)
    marks += "async " if "async" in target.labels else ""
    return [
        f"{marks}({parameters(one)})" + (f" -> {one.returns}" if one.returns is not None else "")
        for one in target.overloads or [target]
    ]


def parameters(target):
    """Return the parameters of a function as in its source, without self or cls."""
    kinds, shown, previous = griffe.ParameterKind, [], None
    stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}
    for one in target.parameters:
        if one.name in {"self", "cls"}:
            continue
        if previous is kinds.positional_only and one.kind is not previous:
            shown.append("/")
        if one.kind is kinds.keyword_only and previous not in {kinds.keyword_only, kinds.var_positional}:
            shown.append("*")
        previous = one.kind
        text = stars.get(one.kind, "") + one.name
        if one.annotation is not None:
            text += f": {one.annotation}"
        shown.append(text if one.default is None or one.kind in stars else f"{text} = {one.default}")
    return ", ".join([*shown, "/"] if previous is kinds.positional_only else shown)


def beginning(value):
    """Return the text of a constant's value or of a field's default, empty if there is none."""
    if not isinstance(value, griffe.ExprCall):
        return str(value or "")
    maker = str(value.function)
    if maker not in FIELD_MAKERS and is_public(maker):
        return str(value)
    named = {one.name: one.value for one in value.arguments if isinstance(one, griffe.ExprKeyword)}
    placed = [one for one in value.arguments if not isinstance(one, griffe.ExprKeyword)]
    if "factory" in named or (placed and maker.endswith("Factory")):
        return f"{named.get('factory') or placed[0]}()"
    return str(named.get("default", placed[0] if placed else ""))


def text(api):
    """Return the content of the file: each name before the names in it."""
    lines = sorted(api.lines, key=lambda line: (re.split(r":? ", line.removeprefix("hook "))[0], line))
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    FILE.write_text(text(PublicApi()), encoding="utf-8")

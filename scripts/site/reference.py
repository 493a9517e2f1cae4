"""The API reference: a Markdown page for each public module, created from signatures and docstrings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import griffe

_SIGNATURE_WIDTH = 88
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FOLDERS_OF_DOORS = ("integrations", "compat")
_SHARED = (
    "carrier",
    "request_meta",
)  # without a page: integrations show the names that they re-export
_LITERAL = re.compile(r"^::\n\n(?P<code>(?:(?: {4}.*)?\n?)+)", re.MULTILINE)
_NOTHING_TO_SHOW = ("__init__", "__call__", "__slots__", "__repr__")


@attrs.frozen
class Door:
    """A module whose public names are documented on one page; its title is the module's name."""

    module: str
    page: str  # its file in reference/
    lead: str


DOORS = (
    Door(
        "firelock", "firelock.md", "For applications: apps, tasks, jobs, and everything that a task can use."
    ),
    Door(
        "firelock.errors",
        "errors.md",
        "All errors, which form one class tree; each class is an error that a caller might catch.",
    ),
    Door(
        "firelock.testing",
        "testing.md",
        "Tools for tests of an application, and the conformance kit for storages and plugins.",
    ),
    Door(
        "firelock.storage",
        "storage.md",
        "For authors of storages; [Writing a storage](../writing-a-storage.md) is a guide.",
    ),
    Door(
        "firelock.limits",
        "limits.md",
        "For authors of storages: which jobs with limits start, which calls with a unique key are stored.",
    ),
    Door(
        "firelock_dashboard",
        "dashboard.md",
        "The dashboard, for applications that mount it: see [its page](../dashboard.md).",
    ),
)


@attrs.frozen
class Entry:
    """A public name of a module, with the object that it refers to."""

    name: str
    target: griffe.Object
    heading: str
    anchor: str


class Reference:
    """The data of the pages: the packages' source code, which is parsed but not imported."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._loader = griffe.GriffeLoader(
            search_paths=[str(source) for source in sources],
            docstring_parser="google",
            docstring_options={"warn_unknown_params": False, "warn_missing_types": False},
        )
        for package in dict.fromkeys(door.module.partition(".")[0] for door in DOORS):
            self._loader.load(package)
        self._loader.resolve_aliases(implicit=False, external=False)
        self._entries = {door: self._entries_of(door) for door in [*DOORS, *self._integrations()]}
        self._places: dict[str, str] = {}  # the place of each name's documentation: page#anchor
        for door, entries in self._entries.items():
            for entry in entries:
                self._take_place(door, entry)

    def doors(self) -> list[Door]:
        """Return the modules that have public names."""
        return [door for door, entries in self._entries.items() if entries]

    def names(self, door: Door) -> list[str]:
        """Return the public names of a module, sorted."""
        return sorted(entry.name for entry in self._entries[door])

    def page(self, door: Door) -> str:
        """Return the Markdown page of a module."""
        entries = self._entries[door]
        here = [entry for entry in entries if self._is_at_home(door, entry)]
        parts = [f"# {door.module}", door.lead, self._table(door, entries)]
        parts += [self._section(door, entry) for entry in here]
        return "\n\n".join(part for part in parts if part) + "\n"

    # ---- modules and names -------------------------------------------------------------------------------

    def _integrations(self) -> Iterator[Door]:
        """Yield each integration and compatibility module; its lead is the module's own docstring."""
        for folder in _FOLDERS_OF_DOORS:
            package = self._loader.modules_collection["firelock"].modules.get(folder)
            modules = package.modules if package else {}
            for name, module in sorted(modules.items()):
                is_part = name.rpartition("_")[0] in modules or name in _SHARED
                if _is_public(name) and not is_part:
                    lead = module.docstring.value if module.docstring else ""
                    yield Door(f"firelock.{folder}.{name}", f"{folder}-{name}.md", lead)

    def _entries_of(self, door: Door) -> list[Entry]:
        module = self._loader.modules_collection[door.module]
        names = list(module.exports or ())
        if module.exports is None:
            names = [
                name for name, one in module.members.items()
                if _is_public(name) and isinstance(one, griffe.Class | griffe.Function)
            ]  # fmt: skip
        entries = [
            Entry(name, _behind(module.members[name]), f"`{name}`", name.strip("_"))
            for name in map(str, names)
            if not isinstance(_behind(module.members[name]), griffe.Module)
        ]
        return [*entries, *self._reached_by_the_app(entries)]

    def _reached_by_the_app(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """Yield the classes that only an app's attributes refer to, such as `fire.jobs` and `fire.queues`."""
        app = next((entry.target for entry in entries if entry.name == "Firelock"), None)
        for name, member in app.members.items() if app else ():
            call = _call_of(getattr(member, "value", None)) if _is_public(name) else None
            if call and isinstance(call.function, griffe.ExprName):
                made = _behind(self._loader.modules_collection[call.function.canonical_path])
                yield Entry(f"fire.{name}", made, f"`fire.{name}`", f"fire.{name}")

    def _take_place(self, door: Door, entry: Entry) -> None:
        is_error = entry.target.path.startswith("firelock.errors.")
        if entry.target.path in self._places and not (is_error and door.module == "firelock.errors"):
            return
        place = f"{door.page}#{entry.anchor}"
        self._places[entry.target.path] = place
        self._places[entry.name] = place
        if isinstance(entry.target, griffe.Class):
            self._places |= {f"{entry.name}.{name}": f"{place}.{name}" for name, one in _members(entry.target)
                             if isinstance(one, griffe.Function)}  # fmt: skip

    def _is_at_home(self, door: Door, entry: Entry) -> bool:
        return self._places[entry.target.path].startswith(f"{door.page}#")

    # ---- pages -------------------------------------------------------------------------------------------

    def _table(self, door: Door, entries: Sequence[Entry]) -> str:
        by_name = sorted(entries, key=lambda entry: (entry.name.startswith("fire."), entry.name.lower()))
        links = [(entry, _from(door, self._places[entry.target.path])) for entry in by_name]
        rows = [f"| [`{entry.name}`]({link}) | {self._first_line(door, entry)} |" for entry, link in links]
        return "\n".join(["| Name | Description |", "|---|---|", *rows])

    def _first_line(self, door: Door, entry: Entry) -> str:
        text = entry.target.docstring.value if entry.target.docstring else ""
        return self._linked(door, text.strip().partition("\n\n")[0].replace("\n", " ")).replace("|", "\\|")

    def _section(self, door: Door, entry: Entry) -> str:
        target = entry.target
        head = f"## {entry.heading} {{#{entry.anchor}}}"
        match target:
            case griffe.Class():
                return "\n\n".join([head, *self._class(door, entry, target)])
            case griffe.Function():
                return "\n\n".join([head, _signature(target), *self._docstring(door, target)])
        value = str(getattr(target, "value", "") or "")
        return "\n\n".join([head, _block(f"{entry.name} = {value}"), *self._docstring(door, target)])

    def _class(self, door: Door, entry: Entry, target: griffe.Class) -> Iterator[str]:
        bases = [str(base) for base in target.bases if not str(base).startswith(("Generic", "Protocol"))]
        heads = f"class {target.name}({', '.join(bases)})" if bases else f"class {target.name}"
        made = target.all_members.get("__init__")
        if isinstance(made, griffe.Function) and _tells_of_arguments(
            target
        ):  # otherwise the library creates the objects
            heads = f"{heads}\n\n{_signature_text(made, target.name)}"
        yield _block(heads)
        yield from self._docstring(door, target)
        members = [(name, one) for name, one in _members(target) if not name.startswith("test_")]
        twins = {name for name, one in members if isinstance(one, griffe.Attribute) and _is_twin(one)}
        members = [(name, one) for name, one in members if name not in twins]
        attributes = [(name, one) for name, one in members if isinstance(one, griffe.Attribute)]
        if attributes:
            yield self._attributes(door, attributes)
        for name, one in members:
            if isinstance(one, griffe.Function):
                yield f"### `{entry.name}.{name}` {{#{entry.anchor}.{name}}}"
                yield _signature(one)
                yield from self._docstring(door, one)
                if f"a{name}" in twins:
                    yield f"`a{name}` is the async variant."

    def _attributes(self, door: Door, attributes: Sequence[tuple[str, griffe.Attribute]]) -> str:
        rows = ["| Attribute | Type | Default | Meaning |", "|---|---|---|---|"]
        for name, one in attributes:
            meaning = one.docstring.value.replace("\n", " ") if one.docstring else _meaning(one)
            kind = f"`{one.annotation}`" if one.annotation else ""
            start = _with_constants(_start(one), one.module)
            cells = [f"`{name}`", kind, f"`{start}`" if start else "", self._linked(door, meaning)]
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        return "\n".join(rows)

    def _docstring(self, door: Door, target: griffe.Object) -> Iterator[str]:
        for section in target.docstring.parsed if target.docstring else ():
            match section:
                case griffe.DocstringSectionText():
                    yield self._linked(door, _LITERAL.sub(_fenced, section.value))
                case griffe.DocstringSectionParameters():
                    entries = ((f"`{one.name}`", one.description) for one in section.value)
                    yield "\n".join(f"- {name}: {self._linked(door, _line(text))}" for name, text in entries)
                case griffe.DocstringSectionRaises():
                    yield "**Raises**"
                    entries = ((f"`{one.annotation}`", one.description) for one in section.value)
                    yield "\n".join(self._linked(door, f"- {name}: {_line(text)}") for name, text in entries)
                case griffe.DocstringSectionAdmonition():
                    yield f"**{section.title or 'Note'}**"
                    yield _block(section.value.description)
                case griffe.DocstringSectionExamples():
                    yield from (_block(text) for _, text in section.value)
                case _:
                    kind = section.kind.value
                    raise ValueError(f"{target.path}: docstring sections of kind {kind!r} are not supported.")

    def _linked(self, door: Door, text: str) -> str:
        """Return the text, in which each public name in code links to its documentation."""

        def link(code: re.Match[str]) -> str:
            name = code[1].removesuffix("()")
            place = self._places.get(name)
            if place and name.islower() and "." not in name and not place.startswith(f"{door.page}#"):
                return code[0]  # on other pages, `fire`, `task` and similar names are the reader's own
            return f"[{code[0]}]({_from(door, place)})" if place else code[0]

        return _CODE.sub(link, text)


def pages(sources: Sequence[Path]) -> Mapping[str, str]:
    """Return the pages of the reference by their file names in reference/."""
    reference = Reference(sources)
    return {door.page: reference.page(door) for door in reference.doors()}


def _from(door: Door, place: str) -> str:
    return place.removeprefix(door.page)


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _behind(one: griffe.Object | griffe.Alias) -> griffe.Object:
    return one.final_target if isinstance(one, griffe.Alias) else one


def _members(target: griffe.Class) -> Iterator[tuple[str, griffe.Object]]:
    """Yield the public members of a class in source order, without those inherited from other libraries."""
    found = {**target.inherited_members, **target.members}
    for name, member in found.items():
        one = _behind(member)
        if not _is_public(name) or name in _NOTHING_TO_SHOW or not one.path.startswith("firelock"):
            continue
        is_documented = bool(one.docstring) or "class-attribute" in one.labels
        if isinstance(one, griffe.Attribute | griffe.Function) and is_documented:
            yield name, one


def _tells_of_arguments(target: griffe.Class) -> bool:
    return target.docstring is not None and any(
        isinstance(section, griffe.DocstringSectionParameters) for section in target.docstring.parsed
    )


def _is_twin(one: griffe.Attribute) -> bool:
    call = _call_of(one.value)
    return call is not None and str(call.function) == "twin"


def _line(text: str) -> str:
    return " ".join(text.split())


def _fenced(literal: re.Match[str]) -> str:
    """Return an indented code block, which follows two colons in reStructuredText, as a Markdown block."""
    return f"{_block(textwrap.dedent(literal['code']))}\n\n"


def _block(code: str) -> str:
    fence = "```" if "```" not in code else "~~~~"
    return f"{fence}python\n{code.rstrip()}\n{fence}"


def _signature(target: griffe.Function) -> str:
    marks = "".join(f"@{mark}\n" for mark in ("classmethod", "staticmethod") if mark in target.labels)
    written = [
        f"{marks}{'async ' if 'async' in one.labels else ''}def {_signature_text(one, target.name)}: ..."
        for one in target.overloads or [target]
    ]
    # Overloads with private types are only for type checkers.
    shown = [one for one in written if not re.search(r"\b_[A-Z]", one)]
    return _block("\n".join(shown or written))


def _signature_text(target: griffe.Function, name: str) -> str:
    """Return `name(parameters) -> result`, with one parameter per line if it is too long for one line."""
    parameters: list[str] = []
    previous = None
    for one in target.parameters:
        if previous is griffe.ParameterKind.positional_only and one.kind is not previous and parameters:
            parameters.append("/")
        is_first_keyword = one.kind is griffe.ParameterKind.keyword_only and previous not in {
            griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional,
        }  # fmt: skip
        if is_first_keyword:
            parameters.append("*")
        previous = one.kind
        if one.name in {"self", "cls"}:
            previous = None
        else:
            parameters.append(_parameter(one))
    if previous is griffe.ParameterKind.positional_only:
        parameters.append("/")
    result = f" -> {target.returns}" if target.returns is not None and target.name != "__init__" else ""
    line = f"{name}({', '.join(parameters)}){result}"
    if len(line) <= _SIGNATURE_WIDTH:
        return line
    return f"{name}(\n    {f',{chr(10)}    '.join(parameters)},\n){result}"


def _parameter(one: griffe.Parameter) -> str:
    stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
    name = f"{stars.get(one.kind, '') if one.kind else ''}{one.name}"
    annotation = f": {one.annotation}" if one.annotation is not None else ""
    if one.default is None or name.startswith("*"):
        return f"{name}{annotation}"
    return f"{name}{annotation}{' = ' if annotation else '='}{one.default}"


def _call_of(value: object) -> griffe.ExprCall | None:
    return value if isinstance(value, griffe.ExprCall) else None


def _given(call: griffe.ExprCall, name: str) -> str | None:
    for argument in call.arguments:
        if isinstance(argument, griffe.ExprKeyword) and argument.name == name:
            return str(argument.value)
    return None


def _start(one: griffe.Attribute) -> str:
    """Return the default value of a field as it is written in the source, or an empty string."""
    if one.value is None or "property" in one.labels:
        return ""
    call = _call_of(one.value)
    if call is None:
        return str(one.value)
    match str(call.function):
        case "attrs.field" | "field":
            factory = _given(call, "factory")
            return _given(call, "default") or (f"{factory}()" if factory else "")
        case "attrs.Factory" | "Factory":
            return f"{call.arguments[0]}()"
        case function if function.startswith("_"):  # the module's own field function: its first argument
            first = call.arguments[0] if call.arguments else ""
            return "" if isinstance(first, griffe.ExprKeyword) else str(first)
    return str(call)


def _with_constants(start: str, module: griffe.Module) -> str:
    """Return the text, in which the module's private constants are replaced by their values."""

    def value(name: re.Match[str]) -> str:
        constant = module.members.get(name[0])
        return str(constant.value) if isinstance(constant, griffe.Attribute) and constant.value else name[0]

    shown = re.sub(r"\b_[A-Z_]+\b", value, start)
    return "" if re.search(r"\b_[A-Z]", shown) else shown


def _meaning(one: griffe.Attribute) -> str:
    call = _call_of(one.value)
    said = _given(call, "doc") if call else None
    return said.strip("'\"") if said else ""

"""Resources: objects that workers keep open for jobs, declared by `@fire.resource` and never stored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, NoReturn, TypeVar

import attrs

from firelock.errors import ConfigurationError, TaskError

T = TypeVar("T")

_PLACED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


@attrs.frozen(eq=False)
class Resource:
    """A declared resource: how a worker opens and closes it."""

    name: str  # of the decorated function
    is_async: bool  # opened on the event loop that runs a worker's async jobs
    context: Callable[..., AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
    needs: Mapping[str, Resource]  # the resources that it takes itself, by parameter
    replacements: list[object] = attrs.Factory(list)  # for tests: the last one replaces the opened value


class UnopenedResource:
    """The value in the module for a declared resource: it is only the default of a task's parameter.

    Type checkers treat it as the opened value, in the same way as a dataclass's `field()` and the field's
    value.
    """

    __slots__ = ("__resource",)

    def __init__(self, resource: Resource) -> None:
        self.__resource = resource

    def __repr__(self) -> str:
        """Return the name of the resource."""
        return f"<resource {self.__resource.name}>"

    def __getattr__(self, attribute: str) -> NoReturn:
        """Raise an AttributeError that explains how to get the opened value.

        Raises:
            AttributeError: always.
        """
        if attribute.startswith("__"):  # Python itself checks whether it is wrapped or can be copied
            raise AttributeError(attribute)
        name = self.__resource.name
        raise AttributeError(
            f"{name} is a resource: a worker opens it for its jobs, nothing is open here, so that it has no "
            f"{attribute!r}. Take it as a task's parameter (client: Client = {name}), or ask for it inside a "
            f"job: current_job().resource({name})."
        )

    @staticmethod
    def resource_of(value: object) -> Resource | None:
        """Return the declared resource; None for any other value."""
        return value.__resource if isinstance(value, UnopenedResource) else None  # noqa: SLF001 - its own


def declare_resource(function: Callable[..., object]) -> UnopenedResource:
    """Return the placeholder of a resource that a worker opens with this function.

    Raises:
        ConfigurationError: it is neither a generator function nor decorated with one of contextlib's
            decorators.
        TaskError: one of its parameters is not another resource and has no default, or a `def` takes a
            resource that is opened on the event loop.
    """
    name = getattr(function, "__name__", repr(function))
    inner = inspect.unwrap(function) if inspect.isfunction(function) else function
    is_async = inspect.isasyncgenfunction(inner)
    if not is_async and not inspect.isgeneratorfunction(inner):
        raise ConfigurationError(
            f"{name} cannot be a resource: it is no generator function. Open it, yield it once, and close it "
            "behind the yield, in a `def` or an `async def`."
        )
    context: Callable[..., Any] = function
    if inspect.isasyncgenfunction(function):
        context = asynccontextmanager(function)
    elif inspect.isgeneratorfunction(function):
        context = contextmanager(function)
    needs = resources_in(function, owner=f"Resource {name!r}", is_async=is_async)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty and parameter.kind not in _VARIABLE:
            raise TaskError(
                f"Resource {name!r}: nobody gives its parameter {parameter.name!r} a value. Give it a "
                "default; another resource may be one."
            )
    return UnopenedResource(Resource(name, is_async, context, needs))


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def find_resource(value: object) -> Resource:
    """Return the resource of a placeholder in a module.

    Raises:
        ConfigurationError: the value is not a resource.
    """
    resource = value if isinstance(value, Resource) else UnopenedResource.resource_of(value)
    if resource is None:
        raise ConfigurationError(f"{value!r} is no resource; declare one: @fire.resource above a generator.")
    return resource


def resources_in(function: Callable[..., object], *, owner: str, is_async: bool) -> dict[str, Resource]:
    """Return the resources that a function takes as defaults of its parameters, by parameter.

    Raises:
        TaskError: such a parameter comes before others that can be passed by position, cannot be passed by
            name, or a `def` takes a resource that is opened on the event loop.
    """
    found: dict[str, Resource] = {}
    last = ""  # the last of `found` that one more positional argument would set
    for parameter in inspect.signature(function).parameters.values():
        resource = UnopenedResource.resource_of(parameter.default)
        name = parameter.name
        if resource is None:
            if last and parameter.kind in _PLACED:
                raise TaskError(
                    f"{owner}: parameter {name!r} stands behind the resource {last!r}, which no call gives. "
                    "Put resources last, or behind a *."
                )
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TaskError(f"{owner}: resource {name!r} is given by name; put it behind the /.")
        if resource.is_async and not is_async:
            raise TaskError(
                f"{owner} is a `def`, and its resource {resource.name!r} is opened on the event loop. Make "
                f"it an `async def`, or {resource.name!r} a generator without async."
            )
        found[name] = resource
        last = name if parameter.kind in _PLACED else last
    return found


def left_out(
    resources: Mapping[str, Resource],
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> dict[str, Resource]:
    """Return the resources of a function that a direct call of the function does not pass."""
    by_position = list(inspect.signature(function).parameters)[: len(args)]
    return {
        name: resource
        for name, resource in resources.items()
        if name not in kwargs and name not in by_position
    }


@contextmanager
def replaced(resource: T, /, by: T) -> Iterator[None]:
    """Within the block, give jobs in this process `by` instead of the value that a worker would open.

    For tests. Nothing is opened within the block. A separate process (`executor="process"`) is not affected.

    Raises:
        ConfigurationError: `resource` is not a resource.
    """
    replacements = find_resource(resource).replacements
    place = len(replacements)
    replacements.append(by)
    try:
        yield
    finally:
        del replacements[place:]

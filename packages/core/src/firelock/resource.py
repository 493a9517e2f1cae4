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
    """A declared resource, with the function that opens and closes it."""

    name: str  # the name of the decorated function
    is_async: bool  # whether the resource is opened on the event loop that runs async jobs
    context: Callable[..., AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
    needs: Mapping[str, Resource]  # the resources that its function uses, keyed by parameter
    replacements: list[object] = attrs.Factory(list)  # set by tests; the last item replaces the opened value


class UnopenedResource:
    """The placeholder of a declared resource in a module; it serves as the default of a task's parameter.

    Type checkers treat it as the opened value, as they treat a dataclass's `field()` as the field's value.
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
            AttributeError: Always.
        """
        if attribute.startswith("__"):  # Python looks up names such as __wrapped__ and __deepcopy__
            raise AttributeError(attribute)
        name = self.__resource.name
        raise AttributeError(
            f"Resource {name} has no attribute {attribute!r} because it is only open inside jobs. Use it as "
            f"the default of a task's parameter (client: Client = {name}), or use "
            f"current_job().resource({name}) inside a job."
        )

    @staticmethod
    def resource_of(value: object) -> Resource | None:
        """Return the declared resource; None for any other value."""
        return value.__resource if isinstance(value, UnopenedResource) else None  # noqa: SLF001 - its own


def declare_resource(function: Callable[..., object]) -> UnopenedResource:
    """Return the placeholder of a resource that a worker opens with this function.

    Raises:
        ConfigurationError: The function is neither a generator function nor decorated with one of
            contextlib's decorators.
        TaskError: A parameter of the function has no default, or a `def` uses a resource that is opened on
            the event loop.
    """
    name = getattr(function, "__name__", repr(function))
    inner = inspect.unwrap(function) if inspect.isfunction(function) else function
    is_async = inspect.isasyncgenfunction(inner)
    if not is_async and not inspect.isgeneratorfunction(inner):
        raise ConfigurationError(
            f"{name} cannot be a resource because it is not a generator function. Use a `def` or `async def` "
            "that opens the resource, yields it once, and closes it after the yield."
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
                f"Parameter {parameter.name!r} of resource {name!r} has no default, and no caller passes a "
                "value. Add a default, which can be another resource."
            )
    return UnopenedResource(Resource(name, is_async, context, needs))


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def find_resource(value: object) -> Resource:
    """Return a resource, or the resource that a placeholder in a module represents.

    Raises:
        ConfigurationError: The value is not a resource.
    """
    resource = value if isinstance(value, Resource) else UnopenedResource.resource_of(value)
    if resource is None:
        raise ConfigurationError(
            f"Expected a resource, got {value!r}. Use @fire.resource on a generator function to declare one."
        )
    return resource


def resources_in(function: Callable[..., object], *, owner: str, is_async: bool) -> dict[str, Resource]:
    """Return the resources that are defaults of a function's parameters, keyed by parameter.

    Raises:
        TaskError: A parameter with a resource cannot be passed by name, or precedes other parameters that
            can be passed by position, or a `def` uses a resource that is opened on the event loop.
    """
    found: dict[str, Resource] = {}
    last = ""  # the latest resource that a positional argument could replace
    for parameter in inspect.signature(function).parameters.values():
        resource = UnopenedResource.resource_of(parameter.default)
        name = parameter.name
        if resource is None:
            if last and parameter.kind in _PLACED:
                raise TaskError(
                    f"Parameter {name!r} of {owner} follows the resource {last!r}, which calls do not pass. "
                    "Put resources last, or after a *."
                )
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TaskError(
                f"Resource {name!r} of {owner} cannot be passed by name. Put the parameter after the /."
            )
        if resource.is_async and not is_async:
            raise TaskError(
                f"{owner} is a `def`, but its resource {resource.name!r} is opened on the event loop. Use an "
                f"`async def`, or change {resource.name!r} to a generator without async."
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
    """Return the resources of a function for which a direct call passes no argument."""
    by_position = list(inspect.signature(function).parameters)[: len(args)]
    return {
        name: resource
        for name, resource in resources.items()
        if name not in kwargs and name not in by_position
    }


@contextmanager
def replaced(resource: T, /, by: T) -> Iterator[None]:
    """Replace a resource by the value `by` for the jobs in this process within the block.

    This function is for tests. The resource is not opened within the block. Jobs in a separate process
    (`executor="process"`) are not affected.

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

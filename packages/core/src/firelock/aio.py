"""For asyncio: what blocks runs in a thread; each blocking verb has a twin, an `a` before its name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what the function returns, run in a thread; asyncio is loaded when this is first used."""
    import asyncio  # noqa: PLC0415

    return await asyncio.to_thread(function, *args, **kwargs)


def twin(verb: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the async twin of a method: in its class, `aget` is the twin of `get`."""

    async def awaited(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        blocking: Callable[P, R] = getattr(self, name)
        return await in_thread(blocking, *args, **kwargs)

    name = verb.__name__
    awaited.__name__ = f"a{name}"
    awaited.__qualname__ = verb.__qualname__.removesuffix(name) + awaited.__name__
    awaited.__doc__ = f"`{name}` without blocking the event loop."
    awaited.__wrapped__ = verb  # type: ignore[attr-defined]  # for inspect.signature
    return awaited

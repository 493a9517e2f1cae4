"""The bridge from coroutines to verbs that block: the async twin of a verb runs it in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["in_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the function returns, run in a thread; asyncio is loaded when this is first used."""
    import asyncio  # noqa: PLC0415 - loaded when first used

    return await asyncio.to_thread(function, *args, **kwargs)

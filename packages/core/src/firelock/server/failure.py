"""The stored form of an exception: type, message, bounded traceback and fingerprint.

The frames of the application are marked in the traceback.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
import traceback
from itertools import groupby
from pathlib import Path

from firelock.model.job import ErrorInfo
from firelock.model.text import message_of, printable, shorten

_MESSAGE_LIMIT = 1_000
_TRACEBACK_LIMIT = 16 * 1024
_CHAIN_LIMIT = 10
_FRAME_LIMIT = 40
_EQUAL_LIMIT = 3  # number of frames shown for a recursion, as in Python's own traceback
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\d+|'[^']{0,200}'|\"[^\"]{0,200}\"")
_OWN_MARK, _PLAIN_MARK = "→ ", "  "

# Both original and resolved paths are needed: a frame contains the path under which its module was found.
_FOREIGN = tuple(
    f"{place}/"
    for path in (
        *(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")),
        str(Path(__file__).parents[1]),
    )
    for place in {path, str(Path(path).resolve())}
)
_INSTALLED = ("/site-packages/", "/dist-packages/")


def describe_failure(error: BaseException) -> ErrorInfo:
    """Return the stored form of a failure: a message of up to 1,000 characters, a traceback of up to 16 KiB.

    Lines of application frames, which are in neither a library nor Firelock, begin with "→ ". Chained
    exceptions come first, at most 10. Equal frames are folded, and the middle of deep stacks is omitted. This
    also works if `__str__` of an exception raises an error.
    """
    trace = traceback.TracebackException.from_exception(error, compact=True)
    name = _type_name(type(error))
    message = shorten(message_of(error), _MESSAGE_LIMIT)
    text = "\n".join(_chain(trace, 0))
    if len(text) > _TRACEBACK_LIMIT:
        half = _TRACEBACK_LIMIT // 2
        text = f"{text[:half]}\n  … {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return ErrorInfo(name, message, _fingerprint(name, message, _own_top(trace)), text)


def failure_of_text(kind: str, message: str) -> ErrorInfo:
    """Return a failure that was not caused by an exception, such as the death of a process."""
    return ErrorInfo(kind, shorten(message, _MESSAGE_LIMIT), _fingerprint(kind, message, ""), None)


def _type_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _chain(trace: traceback.TracebackException, depth: int) -> list[str]:
    if depth >= _CHAIN_LIMIT:
        return ["  … more chained exceptions left out …"]
    lines: list[str] = []
    if trace.__cause__ is not None:
        lines += [*_chain(trace.__cause__, depth + 1), "", "That caused the following:", ""]
    elif trace.__context__ is not None and not trace.__suppress_context__:
        lines += [
            *_chain(trace.__context__, depth + 1),
            "",
            "While that was handled, this happened:",
            "",
        ]
    lines += ["Traceback (most recent call last):", *_frames(list(trace.stack))]
    lines += [printable(line) for line in "".join(trace.format_exception_only()).rstrip("\n").split("\n")]
    for place, inner in enumerate((trace.exceptions or [])[:_CHAIN_LIMIT], start=1):
        lines += [
            "",
            f"Exception {place} of {len(trace.exceptions or [])} in the group:",
            *_chain(inner, depth + 1),
        ]
    return lines


def _frames(frames: list[traceback.FrameSummary]) -> list[str]:
    """Return the lines of a stack: equal frames are folded as in Python, then the middle is omitted."""
    runs = [list(run) for _, run in groupby(frames, key=lambda one: (one.filename, one.lineno, one.name))]
    shown = [
        (frame, len(run) - _EQUAL_LIMIT if place == _EQUAL_LIMIT - 1 else 0)
        for run in runs
        for place, frame in enumerate(run[:_EQUAL_LIMIT])
    ]
    half, left_out = _FRAME_LIMIT // 2, len(shown) - _FRAME_LIMIT
    if left_out <= 0:
        return [line for frame, repeated in shown for line in _frame(frame, repeated)]
    return [
        *(line for frame, repeated in shown[:half] for line in _frame(frame, repeated)),
        f"  … {left_out} frames left out …",
        *(line for frame, repeated in shown[-half:] for line in _frame(frame, repeated)),
    ]


def _frame(frame: traceback.FrameSummary, repeated: int) -> list[str]:
    mark = _OWN_MARK if _is_own(frame.filename) else _PLAIN_MARK
    code = [f"    {printable(frame.line)}"] if frame.line else []
    if repeated > 0:
        code.append(f"  [Previous line repeated {repeated} more time{'s' if repeated > 1 else ''}]")
    return [f'{mark}File "{frame.filename}", line {frame.lineno}, in {frame.name}', *code]


def _is_own(filename: str) -> bool:
    return not filename.startswith(("<frozen", *_FOREIGN)) and not any(
        part in filename for part in _INSTALLED
    )


def _own_top(trace: traceback.TracebackException) -> str:
    """Return the innermost application frame as "file:function"; it is usually the first place to check."""
    own = (frame for frame in reversed(trace.stack) if _is_own(frame.filename))
    return next((f"{Path(frame.filename).name}:{frame.name}" for frame in own), "")


def _fingerprint(kind: str, message: str, place: str) -> str:
    """Return the same hash for all failures of a kind at a place; numbers and quoted strings are ignored."""
    normal = _VARYING.sub("#", message)[:200]
    return hashlib.sha256(f"{kind}\x1f{normal}\x1f{place}".encode()).hexdigest()[:16]

"""The parser of stored tracebacks, which groups frames of the application and frames of libraries."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

import attrs

# The core writes an arrow before frames of the application, and sentences between chained exceptions.
_FRAME = re.compile(r'(?P<mark>→ |  )File "(?P<file>[^"\n]*)", line (?P<line>\d+|None), in (?P<function>.*)')
_REPEATED = re.compile(r"  \[Previous line repeated \d+ more times?\]")
_LEFT_OUT = re.compile(r"  … .* left out …")
_HEAD = "Traceback (most recent call last):"
_BETWEEN = re.compile(
    r"That caused the following:|While that was handled, this happened:|Exception \d+ of \d+ in the group:"
)


@attrs.frozen
class Frame:
    """A frame of the stack; a frame without a file represents repeated or omitted frames."""

    file: str
    line: str
    function: str
    code: str
    is_own: bool

    @property
    def place(self) -> str:
        """The end of the path, and the line number."""
        return f"{'/'.join(self.file.split('/')[-2:])}:{self.line}"


@attrs.frozen
class FrameGroup:
    """Consecutive frames that all belong to the application, or all to libraries."""

    is_own: bool
    frames: tuple[Frame, ...]


@attrs.frozen
class Trace:
    """One exception of a chain."""

    lead: str  # the sentence that relates it to the previous exception; empty for the first
    groups: tuple[FrameGroup, ...]
    last: str  # the type and message, and all lines that are not frames


def read_traceback(text: str) -> list[Trace]:
    """Return the exceptions of a stored traceback, in order; a string in another format is in `last`."""
    traces: list[Trace] = []
    lead, frames, rest = "", list[Frame](), list[str]()
    for line in text.split("\n"):
        if _BETWEEN.fullmatch(line):
            traces.append(_trace(lead, frames, rest))
            lead, frames, rest = line, [], []
        elif frame := _FRAME.fullmatch(line):
            frames.append(
                Frame(frame["file"], frame["line"], frame["function"], "", is_own=frame["mark"] == "→ ")
            )
        elif _REPEATED.fullmatch(line) and frames and not rest:
            frames.append(Frame("", "", "", line.strip(), is_own=frames[-1].is_own))
        elif _LEFT_OUT.fullmatch(line) and not rest:
            frames.append(Frame("", "", "", line.strip(), is_own=False))
        elif frames and not rest and line.startswith("    ") and not frames[-1].code:
            frames[-1] = attrs.evolve(frames[-1], code=line.strip())
        elif frames or rest or line not in {_HEAD, ""}:
            rest.append(line)
    traces.append(_trace(lead, frames, rest))
    return [trace for trace in traces if trace.groups or trace.last]


def _trace(lead: str, frames: Iterable[Frame], rest: Iterable[str]) -> Trace:
    groups = tuple(
        FrameGroup(is_own, tuple(members))
        for is_own, members in groupby(frames, key=lambda frame: frame.is_own)
    )
    return Trace(lead, groups, "\n".join(rest).strip("\n"))


def markdown(title: str, facts: Iterable[str], text: str) -> str:
    """Return a report for an issue: the title, the facts, and the traceback in a long enough code fence."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    listed = "\n".join(f"- {fact}" for fact in facts)
    heading = title.replace("\n", " ")[:300]
    return f"### {heading}\n\n{listed}\n\n{fence}\n{text}\n{fence}\n"

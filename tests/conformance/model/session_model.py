"""The session protocol, checked state by state: `python -m tests.conformance.model.session_model [--deep]`.

A server is a supervisor with two worker processes (children), each of which has one session. A call has three
moves: it is sent, executed by the storage, and its reply is handled. It can be executed after its sender was
killed and its session was ended. Worker processes and supervisors die, sessions lapse, requests and replies
are lost, and operators delete and requeue. The job's row can be locked when its session ends; then the
session is closing until a sweep has taken the job.

Guaranteed in every world:

- A claim has one accepted end, with the job's current fence.
- No stored end is reported as lost.
- A run under a valid session stays on the job's row, deleted or not.
- Two runs never exist under valid sessions, even after delete and requeue.
- No job has a dead session that is not closing.
- A job that had not started gets no crash.
- From every world, regular moves lead to an end.

Not modelled: a second job (jobs meet only in batches), retries, and arithmetic with clocks.
"""

from __future__ import annotations

import sys
from time import perf_counter

from tests.conformance.explorer import explore

from .checker import SessionModel
from .variants import DEEP, VARIANTS


def check(variant):
    """Return the finding for one variant, in its world and for its conditions."""
    return explore(SessionModel(variant.rules, variant.bounds, variant.promises))


def described(variant, finding):
    """Return the text of a finding, with its counter-example move by move."""
    moves = [f"\n  {number:2}. {move}" for number, move in enumerate(finding.trail, start=1)]
    reason = f"\n      → {finding.reason}" if finding.reason else ""
    return f"{variant.name}: {finding.verdict}, {finding.states:,} states{''.join(moves)}{reason}"


def main(arguments):
    """Explore and print every variant; return 1 if any has an unexpected result."""
    is_deep = bool({"--deep", "--all"}.intersection(arguments))
    surprises = 0
    for variant in (*VARIANTS, *(DEEP if is_deep else ())):
        begun = perf_counter()
        finding = check(variant)
        is_expected = (finding.verdict, len(finding.trail)) == (variant.expected, variant.length)
        surprises += not is_expected
        note = "" if is_expected else f" — expected {variant.expected} in {variant.length} moves"
        sys.stdout.write(f"{described(variant, finding)}\n      {perf_counter() - begun:.1f} s{note}\n")
        sys.stdout.flush()
    return min(surprises, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The session protocol, checked state by state: `python -m tests.conformance.model.session_model [--deep]`.

A server is a supervisor with two children; each child has one session. A call has three steps (sent, executed
by the storage, reply handled), and may be executed after its sender was killed and its session was ended.
Children and supervisors die, sessions lapse, requests and replies are lost, operators delete and requeue. The
job's row may be locked when its session ends; then the session is closing until a sweep has taken the job.

Promised in every world: one accepted end a claim, and that with the job's present fence; no end reported lost
that stands; a run under a well session stays on the job's row, deleted or not; never two runs under well
sessions, also after delete and requeue; no job with a dead session that is not closing; no crash for a job
that had not started; and from everywhere a way to an end by ordinary steps.

Left out: a second job (jobs meet only in batches), retries, and arithmetic with clocks.
"""

from __future__ import annotations

import sys
from time import perf_counter

from tests.conformance.explorer import explore

from .checker import SessionModel
from .variants import DEEP, VARIANTS


def check(variant):
    """The finding for one variant, in the world and by the promises it names."""
    return explore(SessionModel(variant.rules, variant.bounds, variant.promises))


def told(variant, finding):
    """A finding in words, with its counter-example step by step."""
    steps = [f"\n  {number:2}. {step}" for number, step in enumerate(finding.trail, start=1)]
    reason = f"\n      → {finding.reason}" if finding.reason else ""
    return f"{variant.name}: {finding.verdict}, {finding.states:,} states{''.join(steps)}{reason}"


def main(arguments):
    """Every variant is explored and told; 1 where one is not as expected."""
    is_deep = bool({"--deep", "--all"}.intersection(arguments))
    surprises = 0
    for variant in (*VARIANTS, *(DEEP if is_deep else ())):
        begun = perf_counter()
        finding = check(variant)
        is_expected = (finding.verdict, len(finding.trail)) == (variant.expected, variant.steps)
        surprises += not is_expected
        note = "" if is_expected else f" — expected {variant.expected} in {variant.steps} steps"
        sys.stdout.write(f"{told(variant, finding)}\n      {perf_counter() - begun:.1f} s{note}\n")
        sys.stdout.flush()
    return min(surprises, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

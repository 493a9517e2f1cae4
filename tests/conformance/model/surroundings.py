"""Events outside the server: the network, time, another server's sweep, an operator."""

from __future__ import annotations

from .children import handled, reconciled
from .state import (
    BLAMING,
    CLAIM,
    CLOSING,
    DEAD,
    DELETED,
    FINAL,
    FRESH,
    LAPSED,
    NOBODY,
    RECONCILE,
    RETURN,
    SENT,
    SETTLE,
    SUPERVISOR,
    kept_sessions,
    with_call,
    with_session,
    without_call,
)
from .storage import deleted, executed, requeued, taken


def network_moves(world, rules, bounds):
    """Yield the moves in which calls are executed, answered, lost or abandoned, in any order."""
    for call in dict.fromkeys(world.wire):
        words = _words(call)
        rest = without_call(world, call)
        if call.stage == SENT:
            yield f"the storage executes {words}", True, executed(world, call, rules)
            if bounds.losses:
                yield f"{words} never arrives", False, rest
            if bounds.losses and call.sender != NOBODY and call.kind != RECONCILE:
                abandoned = with_call(rest, call._replace(sender=NOBODY))
                yield f"nobody waits any longer for {words}", False, abandoned
            continue
        if bounds.losses:
            yield f"the reply to {words} is lost", False, rest
        after = reconciled(rest, call, rules) if call.kind == RECONCILE else handled(rest, call)
        yield f"the reply to {words} is handled: {_answer(call)}", True, after


def _words(call):
    sender = {NOBODY: "nobody", SUPERVISOR: "the supervisor"}.get(call.sender, f"child {call.sender}")
    if call.kind == RETURN:
        return f"the hand-back of fence {call.fences[0]}"
    what = f"end of fence {call.fences[0]}" if call.kind == SETTLE else call.kind
    if call.sender == NOBODY:
        return f"an abandoned {what} under session {call.session}"
    return f"the {what} of {sender} under session {call.session}"


def _answer(call):
    if call.kind == CLAIM:
        return f"fence {call.fences[0]}"
    if call.kind == SETTLE:
        return call.stage
    return f"lost {list(call.fences)}, unknown {call.unknown or 'none'}"


def time_moves(world, rules, bounds):
    """Yield the moves in which a session lapses, and another server's sweep ends it.

    The lapse is a regular move if the session is not renewed. Marking the session dead and taking its jobs is
    one move, and every taken job gets a crash, because the state of that host is unknown. If the job is
    locked, a later sweep takes it.
    """
    kept = kept_sessions(world.children, world.supervisor)
    for session, state in enumerate(world.sessions):
        if state == FRESH and session in kept and (bounds.lapses or not world.supervisor):
            lapsed = with_session(world, session, LAPSED)
            yield f"session {session} lapses", not world.supervisor, lapsed
        has_lapsed = state == LAPSED or (state == FRESH and session not in kept)
        if has_lapsed or (state == FRESH and not rules.reaper_tests_session):
            job = taken(world.job, session, crashed=True, crash_limit=bounds.crash_limit)
            after = world._replace(job=job)
            if has_lapsed:
                after = with_session(after, session, DEAD)
            if after != world:
                yield f"another server reaps session {session}", True, after
        if has_lapsed and bounds.locks and world.job.session == session:
            after = with_session(world, session, BLAMING)
            yield f"another server reaps session {session}, whose job is locked", False, after
        if state in (CLOSING, BLAMING) and rules.sweeps_continue:
            yield (
                f"a sweep takes what session {session} still holds",
                True,
                _swept(world, session, rules, bounds),
            )


def _swept(world, session, rules, bounds):
    state, job = world.sessions[session], world.job
    is_blamed = state == BLAMING or not rules.sweeps_keep_blame
    is_taken = job.session == session and not job.has_tail
    broken = "a job that had not started gets a crash" if is_taken and is_blamed and state == CLOSING else ""
    holder = session if rules.sweeps_read_rows else job.session
    job = taken(job, holder, crashed=is_blamed, crash_limit=bounds.crash_limit)
    return with_session(world, session, DEAD)._replace(job=job, broken=broken)


def operator_moves(world, rules):
    """Yield the moves in which an operator deletes and requeues, if the state allows it."""
    job = world.job
    if job.state != DELETED:
        yield "an operator deletes the job", False, world._replace(job=deleted(job, rules))
    if job.state in FINAL:
        yield "an operator requeues the job", False, world._replace(job=requeued(job))

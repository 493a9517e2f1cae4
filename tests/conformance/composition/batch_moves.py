"""The moves of a batch.

Each transaction of the storage is one move, except that a fold and an add from outside take two moves. Each
change of a member appends one delta in its own transaction, and no transaction locks a batch to end a job. A
fold locks the batch, takes its deltas, and sets the state of the batch. A transaction that changes the row of
a batch waits for a fold that has locked it.
"""

from __future__ import annotations

from .batch_rules import (
    ABSENT,
    DELETED,
    ENDED,
    ENQUEUED,
    FAILED,
    FILLED,
    OPEN,
    PROCESSING,
    SUCCEEDED,
    UNOPENED,
    WAITING,
    Batch,
    Delta,
    Fold,
    Member,
    Rules,
    World,
    batch_end,
    batch_is_active,
    batch_is_waiting,
    is_active,
    is_waiting,
)

DELETED_BADLY = 'on="deleted" is reported while a member still runs'


class BatchModel:
    """One scene with one set of rules.

    Args:
        checks_counts: whether to check the counts in every world, and not only the behaviour.
    """

    def __init__(self, scene, rules=Rules(), *, checks_counts=True):  # noqa: B008 - frozen
        self.scene, self.rules, self._checks_counts = scene, rules, checks_counts

    # ---- the first world ---------------------------------------------------------------------------------

    @property
    def first(self):
        """The world before anything is stored.

        Without chunks, the world contains everything except the jobs that are added later.
        """
        scene = self.scene
        members = (Member(),) * len(scene.batch_of)
        batches = (Batch(),) * (1 + len(scene.outer_of))
        world = World(members, batches, (), (None,) * self.rules.folders, False, 0, True, scene.budget)
        if scene.chunks:
            return world
        late = set(scene.adds.values())
        world = world._replace(
            members=tuple(
                member if place in late else Member(self._first_state(place))
                for place, member in enumerate(members)
            ),
            batches=tuple(Batch(OPEN, is_unopened=place in scene.after) for place in range(len(batches))),
            next_chunk=FILLED,
        )
        for place in reversed(range(len(batches))):
            active, waiting, _ = self._counted(world, place)
            world = self._with_row(
                world, place, world.batches[place]._replace(active=active, waiting=waiting)
            )
        return world

    def _first_state(self, member):
        if member in self.scene.parent_of:
            return WAITING
        return UNOPENED if self.scene.batch_of[member] in self.scene.after else ENQUEUED

    # ---- counts ------------------------------------------------------------------------------------------

    def _members_of(self, world, batch):
        return [
            member
            for place, member in enumerate(world.members)
            if member.state != ABSENT and self.scene.batch_of[place] == batch
        ]

    def _inner_of(self, world, batch):
        return [world.batches[one] for one in self.scene.inner(batch) if world.batches[one].state != ABSENT]

    def _counted(self, world, batch):
        """Return the numbers of active, waiting and failed members, counted from the members themselves."""
        members, inner = self._members_of(world, batch), self._inner_of(world, batch)
        return (
            sum(is_active(one, self.rules) for one in members) + sum(map(batch_is_active, inner)),
            sum(is_waiting(one, self.rules) for one in members) + sum(map(batch_is_waiting, inner)),
            sum(one.state == FAILED for one in members) + sum(one.state == FAILED for one in inner),
        )

    def _can_move(self, world, batch):
        """Return how many members can really still move, even if the rules count another number."""
        members = self._members_of(world, batch)
        moving = sum(
            one.state in (ENQUEUED, PROCESSING, UNOPENED) or one.is_tail or one.is_releasing
            for one in members
        )
        return moving + sum(map(batch_is_active, self._inner_of(world, batch)))

    # ---- changes -----------------------------------------------------------------------------------------

    @staticmethod
    def _with_delta(world, delta):
        return world._replace(deltas=tuple(sorted((*world.deltas, delta))))

    def _with_member(self, world, place, member, *, writes_delta=True):
        """Return the world with this member, and with the delta for its batch from the same move."""
        before, batch = world.members[place], self.scene.batch_of[place]
        members = list(world.members)
        members[place] = member
        world = world._replace(members=tuple(members))
        if member.state == FAILED != before.state:
            world = self._unwanted(world, batch)
        delta = Delta(
            batch,
            is_active(member, self.rules) - is_active(before, self.rules),
            is_waiting(member, self.rules) - is_waiting(before, self.rules),
            (member.state == FAILED) - (before.state == FAILED),
            int(member.state == FAILED != before.state),
        )
        return self._with_delta(world, delta) if writes_delta and any(delta[1:]) else world

    def _unwanted(self, world, batch):
        """Return the world in which no member was requeued after the last failure."""
        return world._replace(
            members=tuple(
                member._replace(is_wanted=False) if self.scene.batch_of[place] == batch else member
                for place, member in enumerate(world.members)
            )
        )

    @staticmethod
    def _with_row(world, place, batch):
        batches = list(world.batches)
        batches[place] = batch
        return world._replace(batches=tuple(batches))

    def _with_batch(self, world, place, batch):
        """Return the world with this state of the batch, and with the delta for its outer batch."""
        before = world.batches[place]
        world = self._with_row(world, place, batch)
        outer = self.scene.outer_of.get(place)
        if outer is None:
            return world
        active = batch_is_active(batch) - (before.state != ABSENT and batch_is_active(before))
        reopens = active > 0 and before.state in (SUCCEEDED, FAILED)
        if reopens and not self.rules.reopening_is_reported:
            return world
        if batch.state == FAILED != before.state:
            world = self._unwanted(world, outer)
        delta = Delta(
            outer,
            active,
            batch_is_waiting(batch) - (before.state != ABSENT and batch_is_waiting(before)),
            (batch.state == FAILED) - (before.state == FAILED),
            int(batch.state == FAILED != before.state),
        )
        return self._with_delta(world, delta) if any(delta[1:]) else world

    def _ended(self, world, place, state):
        """Return the ended member; it stays on the releasing list as long as another job waits for it."""
        child = self.scene.child_of(place)
        has_child = child is not None and world.members[child].state == WAITING
        member = world.members[place]
        return member._replace(
            state=state, is_releasing=has_child or bool(self._relations(world, place)), is_wanted=False
        )

    def _relations(self, world, place):
        """Return the batches that wait for the member; in one variant their members wait for it too."""
        relations = []
        for batch, source in self.scene.after.items():
            if source != place:
                continue
            relations += [("batch", batch)] * world.batches[batch].is_unopened
            if not self.rules.batch_alone_waits:
                relations += [
                    ("member", other)
                    for other, member in enumerate(world.members)
                    if member.state == UNOPENED and self.scene.batch_of[other] == batch
                ]
        return relations

    def _is_locked(self, world, batch):
        return any(fold is not None and fold.batch == batch for fold in world.folds)

    def _may_change(self, world, batch):
        return not (self.rules.row_waits_for_fold and self._is_locked(world, batch))

    # ---- moves -------------------------------------------------------------------------------------------

    def moves(self, world):
        """Yield every move: its name, whether it is a regular move, and the world after it."""
        yield from self._creator(world)
        for place, member in enumerate(world.members):
            yield from self._runs(world, place, member)
            yield from self._releases(world, place, member)
            yield from self._people(world, place, member)
        yield from self._outsider(world)
        yield from self._sweeper(world)
        for place, batch in enumerate(world.batches):
            yield from self._cancels(world, place, batch)
            if batch.is_releasing:
                yield self._fires(world, place, batch)
        for place, fold in enumerate(world.folds):
            yield from self._takes(world, place) if fold is None else self._decides(world, place, fold)

    def _creator(self, world):
        """Yield the moves of the creator, which may die at any time.

        It stores the batch with its first chunk, adds further chunks, and closes the batch.
        """
        rules, chunks, batch = self.rules, self.scene.chunks, world.batches[0]
        if world.has_creator and world.next_chunk <= len(chunks) and self._may_change(world, 0):
            yield self._stores(world, batch)
            if world.next_chunk and world.budget.crash:
                yield "creator dies", False, self._spent(world, "crash")._replace(has_creator=False)
        if batch.is_held and rules.hold_expires and self._may_change(world, 0):
            over = self._with_batch(world, 0, batch._replace(is_held=False, is_cancelled=True))
            yield "hold expires", not world.has_creator, self._with_delta(over, Delta(0))

    def _stores(self, world, batch):
        rules, chunks, chunk = self.rules, self.scene.chunks, world.next_chunk
        if chunk == 0:
            world = self._with_batch(world, 0, batch._replace(state=OPEN, is_held=rules.is_held))
        elif batch.state != OPEN or (rules.is_held and not batch.is_held):
            early = "" if batch.is_cancelled else "the batch ended before it was filled"
            return "creator refused", True, world._replace(next_chunk=FILLED, broken=world.broken or early)
        if chunk == len(chunks):
            closed = self._with_batch(world, 0, world.batches[0]._replace(is_held=False))
            return "close", True, self._with_delta(closed, Delta(0))._replace(next_chunk=FILLED)
        for place in chunks[chunk]:
            world = self._with_member(world, place, Member(self._first_state(place)))
        if len(chunks) > 1:
            return f"store {chunk}", True, world._replace(next_chunk=chunk + 1)
        world = self._with_batch(world, 0, world.batches[0]._replace(is_held=False))
        return "store all", True, world._replace(next_chunk=FILLED)

    @staticmethod
    def _spent(world, what):
        return world._replace(budget=world.budget.spent(what))

    def _runs(self, world, place, member):
        batch, budget, rules = self.scene.batch_of[place], world.budget, self.rules
        if member.state == ENQUEUED and not member.is_tail:
            yield (
                f"claim {place}",
                True,
                self._with_member(world, place, member._replace(state=PROCESSING)),
            )
        if member.state == PROCESSING:
            good = self._with_member(world, place, self._ended(world, place, SUCCEEDED))
            yield f"succeed {place}", True, good
            if budget.fail:
                bad = self._with_member(world, place, self._ended(world, place, FAILED))
                yield f"fail {place}", False, self._spent(bad, "fail")
            if budget.crash:
                lost = self._with_member(world, place, member._replace(state=ENQUEUED, has_old_run=True))
                lost = lost if rules.crash_is_no_end else self._with_delta(lost, Delta(batch, -1))
                yield f"lose {place}", False, self._spent(lost, "crash")
        added = self.scene.adds.get(place)
        if added is not None and budget.add_inside and (member.state == PROCESSING or member.has_old_run):
            into = self.scene.batch_of[added]
            is_free = world.batches[into].state == OPEN and not self._is_locked(world, into)
            if is_free and world.members[added].state == ABSENT:
                more = self._with_member(world, added, Member(ENQUEUED))
                yield f"add {added}", False, self._spent(more, "add_inside")
        if member.has_old_run:
            late = self._with_member(world, place, member._replace(has_old_run=False))
            yield (
                f"late end {place} refused",
                True,
                late if rules.ends_are_guarded else self._with_delta(late, Delta(batch, -1)),
            )
        if member.is_tail:
            yield f"tail {place} over", True, self._with_member(world, place, member._replace(is_tail=False))

    def _releases(self, world, place, member):
        """Yield the moves that update the jobs waiting for an ended member, one edge at a time.

        Then the member leaves the releasing list.
        """
        batch = world.batches[self.scene.batch_of[place]]
        is_resumed = member.state == UNOPENED and self.rules.batch_alone_waits
        if is_resumed and not batch.is_unopened and not batch.is_cancelled:
            yield f"resume {place}", True, self._with_member(world, place, member._replace(state=ENQUEUED))
        if not member.is_releasing:
            return
        relations = self._relations(world, place) if member.state in (SUCCEEDED, DELETED) else []
        for kind, other in relations:
            if kind == "member":
                yield f"release {place} to {other}", True, self._decided(world, other, member.state)
            elif self._may_change(world, other):
                inner = world.batches[other]
                is_cancelled = inner.is_cancelled or member.state == DELETED
                inner = inner._replace(is_unopened=False, is_cancelled=is_cancelled)
                opened = self._with_batch(world, other, inner)
                yield f"release {place} to batch {other}", True, self._with_delta(opened, Delta(other))
        if not relations:
            child = self.scene.child_of(place)
            decides = child is not None and world.members[child].state == WAITING
            after = world
            if decides and member.state in (SUCCEEDED, DELETED):
                after = self._decided(world, child, member.state)
            yield (
                f"release {place}",
                True,
                self._with_member(after, place, member._replace(is_releasing=False)),
            )

    def _decided(self, world, child, parent_state):
        if parent_state == DELETED:
            return self._with_member(world, child, self._ended(world, child, DELETED))
        return self._with_member(world, child, world.members[child]._replace(state=ENQUEUED))

    def _people(self, world, place, member):
        batch, budget = self.scene.batch_of[place], world.budget
        row = world.batches[batch]
        if (
            budget.requeue
            and member.state in (*ENDED, WAITING, UNOPENED)
            and not member.is_tail
            and self._may_calm(world, batch)
        ):
            calm = self._calmed(world, batch)
            again = Member(ENQUEUED, has_old_run=member.has_old_run, is_wanted=True)
            back = self._with_member(calm, place, again, writes_delta=self.rules.requeue_writes_opposite)
            yield f"requeue {place}", False, self._spent(back, "requeue")
        if budget.delete and member.state in (WAITING, UNOPENED, ENQUEUED, PROCESSING, SUCCEEDED, FAILED):
            gone = self._swept(world, place)
            yield f"delete {place}", False, self._spent(gone, "delete")
        is_swept = row.is_cancelled and (row.state == OPEN or not self.rules.cancel_waits)
        if is_swept or (self.rules.stop_sweeps_locked and self._is_to_stop(world, batch)):
            yield from self._sweeps(world, place, member)
        if world.sweeper == batch:
            for name, is_good, after in self._sweeps(world, place, member):
                yield name, is_good, after._replace(sweeper=None)

    def _sweeps(self, world, place, member):
        if member.state in (WAITING, UNOPENED, ENQUEUED, PROCESSING):
            yield f"sweep {place}", True, self._swept(self._blamed(world, place, member), place)

    def _swept(self, world, place):
        deleted = self._ended(world, place, DELETED)
        return self._with_member(
            world, place, deleted._replace(is_tail=world.members[place].state == PROCESSING)
        )

    def _blamed(self, world, place, member):
        """Return the world, marked as broken if the member was requeued and nothing has failed since."""
        row = world.batches[self.scene.batch_of[place]]
        if member.is_wanted and not row.is_cancelled:
            return world._replace(broken=world.broken or "a requeued member is stopped by what failed before")
        return world

    # ---- stopping ----------------------------------------------------------------------------------------

    def _is_to_stop(self, world, batch):
        row = world.batches[batch]
        return row.is_stopping and row.state == OPEN and self._may_change(world, batch)

    def _sweeper(self, world):
        """Yield the moves of a variant that first detects a stopping batch, and sweeps it in a later move."""
        if self.rules.stop_sweeps_locked:
            return
        for place in range(len(world.batches)):
            if world.sweeper is None and self._is_to_stop(world, place):
                yield f"look to sweep {place}", True, world._replace(sweeper=place)
        if world.sweeper is not None:
            yield "nothing to sweep", True, world._replace(sweeper=None)

    def _stopped_around(self, batch):
        return [one for one in self.scene.around(batch) if one in self.scene.fails_fast]

    def _may_calm(self, world, batch):
        return not self.rules.requeue_calms or all(
            self._may_change(world, one) for one in self._stopped_around(batch)
        )

    def _calmed(self, world, batch):
        """Return the world in which earlier failures are folded and no longer stop anything."""
        if not self.rules.requeue_calms:
            return world
        for one in self._stopped_around(batch):
            taken = [delta for delta in world.deltas if delta.batch == one]
            row = world.batches[one]
            row = row._replace(
                active=row.active + sum(delta.active for delta in taken),
                waiting=row.waiting + sum(delta.waiting for delta in taken),
                failed=row.failed + sum(delta.failed for delta in taken),
                is_stopping=False,
            )
            rest = tuple(delta for delta in world.deltas if delta.batch != one)
            world = self._with_delta(self._with_row(world._replace(deltas=rest), one, row), Delta(one))
        return world

    # ---- outside transactions ----------------------------------------------------------------------------

    def _outsider(self, world):
        """Yield the moves of an outside transaction that adds a job.

        It reads the batch under a shared lock and stores the job in a later move.
        """
        added = self.scene.added_outside
        if added is None:
            return
        can_begin = world.budget.add_outside and not world.adder and world.next_chunk == FILLED
        is_kept_out = self.rules.outside_add_locks and self._is_locked(world, 0)
        if can_begin and world.batches[0].state == OPEN and not is_kept_out:
            yield "look to add", False, self._spent(world, "add_outside")._replace(adder=True)
        if world.adder:
            more = self._with_member(world, added, Member(ENQUEUED))._replace(adder=False)
            if world.batches[0].state != OPEN:
                more = more._replace(broken=world.broken or "a job was added to a batch that has ended")
            yield "add from outside", True, more

    def _cancels(self, world, place, batch):
        outer = self.scene.outer_of.get(place)
        row = None if outer is None else world.batches[outer]
        is_swept = row is not None and row.state == OPEN and row.is_cancelled
        is_swept |= row is not None and row.state == OPEN and row.is_stopping
        if not (world.budget.cancel or is_swept) or batch.state != OPEN or batch.is_cancelled:
            return
        if not self._may_change(world, place):
            return
        cancelled = batch._replace(is_cancelled=True, is_held=False)
        if not self.rules.cancel_waits:
            cancelled = cancelled._replace(state=DELETED, is_releasing=True)
        after = self._with_delta(self._with_batch(world, place, cancelled), Delta(place))
        yield f"cancel {place}", is_swept, after if is_swept else self._spent(after, "cancel")

    @staticmethod
    def _first_time(fired, state):
        wanted = ((SUCCEEDED,), ENDED, (DELETED,))
        return tuple(
            count + (state in states and not count) for count, states in zip(fired, wanted, strict=True)
        )

    def _fires(self, world, place, batch):
        """Return the move that updates the batch's continuations, each at the first end that it awaits."""
        broken = world.broken
        is_first = batch.state == DELETED and not batch.fired[2]
        is_never_requeued = world.budget.requeue == self.scene.budget.requeue
        if is_first and is_never_requeued and self._can_move(world, place):
            broken = broken or DELETED_BADLY
        ended = batch._replace(is_releasing=False, fired=self._first_time(batch.fired, batch.state))
        return f"continue {place}", True, self._with_batch(world._replace(broken=broken), place, ended)

    # ---- folds -------------------------------------------------------------------------------------------

    def _takes(self, world, folder):
        """Yield the moves in which a fold locks a batch and takes its deltas; locked batches are skipped."""
        for batch in sorted({delta.batch for delta in world.deltas}):
            if self.rules.lock_before_take:
                adds = batch == 0 and world.adder and self.rules.outside_add_locks
                if self._is_locked(world, batch) or adds:
                    continue
                shares = [tuple(delta for delta in world.deltas if delta.batch == batch)]
            else:  # the fold takes some of the deltas, and another fold has the rest
                shares = [(delta,) for delta in dict.fromkeys(world.deltas) if delta.batch == batch]
            for share in shares:
                rest = list(world.deltas)
                for delta in share:
                    rest.remove(delta)
                taken = Delta(batch, *(sum(delta[field] for delta in share) for field in range(1, 5)))
                folds = list(world.folds)
                folds[folder] = Fold(batch, taken, self._can_move(world, batch))
                yield f"take {batch}", True, world._replace(folds=tuple(folds), deltas=tuple(rest))

    def _decides(self, world, folder, fold):
        """Yield the move that sets the batch to the state that its counts imply."""
        folds = list(world.folds)
        folds[folder] = None
        world, place, taken = world._replace(folds=tuple(folds)), fold.batch, fold.taken
        before, rules = world.batches[place], self.rules
        row = before._replace(
            active=before.active + taken.active,
            waiting=before.waiting + taken.waiting,
            failed=before.failed + taken.failed,
        )
        if place in self.scene.fails_fast:
            has_failed = taken.failures > 0 if rules.stop_is_an_event else row.failed > 0
            row = row._replace(is_stopping=row.is_stopping or has_failed)
        is_open = before.state in (OPEN, SUCCEEDED, FAILED) and not before.is_held
        if is_open and (not before.is_unopened or before.is_cancelled):
            state = batch_end(row, rules)
            if state != before.state:
                world = world._replace(broken=world.broken or self._misjudged(world, place, row, state, fold))
                row = row._replace(state=state, is_releasing=state != OPEN)
                row = row if state == OPEN else row._replace(is_stopping=False)
        yield f"decide {place}", True, self._with_batch(world, place, row)

    def _misjudged(self, world, place, row, state, fold):
        could_move = fold.could_move if self.rules.lock_before_take else self._can_move(world, place)
        if state != OPEN and could_move:
            return f"batch {place} ended ({state}) while a member of it could still move"
        waits = any(is_waiting(one, self.rules) for one in self._members_of(world, place))
        if state == FAILED and row.is_stopping and waits:
            return f"batch {place} was stopped and ended while a member of it still waits"
        if state == FAILED and row.failed == 0:
            return "something waits although nothing has failed"
        return ""

    # ---- conditions --------------------------------------------------------------------------------------

    def broken(self, world):
        """Return a description of the condition that is broken in this world, or an empty string."""
        if world.broken or not self._checks_counts:
            return world.broken
        for place, batch in enumerate(world.batches):
            if batch.state == ABSENT:
                continue
            deltas = [delta for delta in world.deltas if delta.batch == place]
            deltas += [fold.taken for fold in world.folds if fold is not None and fold.batch == place]
            counts = (
                batch.active + sum(delta.active for delta in deltas),
                batch.waiting + sum(delta.waiting for delta in deltas),
                batch.failed + sum(delta.failed for delta in deltas),
            )
            if counts != self._counted(world, place):
                return f"counts of batch {place} are {counts}, its members say {self._counted(world, place)}"
            if max(batch.fired) > 1:
                return "a continuation fired twice"
        return ""

    def is_done(self, world):
        """Return whether every batch has ended as it should and has reported its end."""
        if world.deltas or any(world.folds) or world.adder or world.sweeper is not None:
            return False
        if world.next_chunk != FILLED and world.has_creator:
            return False
        if world.next_chunk == 0:
            return True  # the creator died before anything was stored
        if any(
            one.is_releasing or one.is_tail or one.state in (ENQUEUED, PROCESSING) for one in world.members
        ):
            return False
        return all(self._is_over(world, place) for place in range(len(world.batches)))

    def _is_over(self, world, place):
        batch = world.batches[place]
        outer = self.scene.outer_of.get(place)
        if batch.is_unopened and batch.state == OPEN and outer is not None:
            # its source has failed, so the batch waits, and the outer batch has counted this
            return world.batches[outer].state == FAILED
        if batch.state not in ENDED or batch.is_releasing or not batch.fired[1]:
            return False
        if (batch.state == SUCCEEDED and not batch.fired[0]) or (
            batch.state == DELETED and not batch.fired[2]
        ):
            return False
        waits = any(is_waiting(one, self.rules) for one in self._members_of(world, place))
        return not waits or batch.state == FAILED

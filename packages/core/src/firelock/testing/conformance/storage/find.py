"""Find: people see each matching job once, in order of time, while jobs come and go."""

from __future__ import annotations

import attrs
import pytest

from firelock.errors import StorageError
from firelock.storage import JobFilter
from firelock.testing.conformance.ends import deletes, fails, retries, snoozes, succeeds
from firelock.testing.conformance.handles import BASE, HOUR, SECOND, STAMP
from firelock.testing.conformance.scene import Scene, error_info, pages
from firelock.testing.conformance.storage.subject import StorageFixtures
from firelock.values import State

__all__ = ["FindDuty"]


def _walk(scene: Scene, where: JobFilter, limit: int, *, oldest_first: bool = False) -> list[list[str]]:
    walked = pages(scene.storage, where, limit, oldest_first=oldest_first)
    return [[job.id for job in page] for page in walked]


class FindDuty(StorageFixtures):
    """What `get` and `find` promise."""

    verbs = "get find"

    def test_get_answers_each_id(self, scene: Scene) -> None:
        """One record an id, in the order asked, None where unknown; a repeat is answered again.

        If this fails: a caller reads another job's record as its own.
        """
        ids = scene.add_many(3)
        unknown = scene.new_id()

        records = scene.storage.get([ids[2], unknown, ids[0], ids[2]])

        assert [ids[2], None, ids[0], ids[2]] == [record.id if record else None for record in records]

    def test_newest_come_first_unless_asked_otherwise(self, scene: Scene) -> None:
        """Jobs are in order of `created_at`, newest first; or oldest first.

        If this fails: the newest jobs are on the last page.
        """
        stamps = [STAMP + second * SECOND for second in (30, 10, 20)]
        third, first, second = (scene.add(created_at=stamp) for stamp in stamps)

        assert [third, second, first] == scene.found(JobFilter())
        assert [first, second, third] == scene.found(JobFilter(), oldest_first=True)

    def test_jobs_of_a_state_are_in_order_of_their_change(self, scene: Scene) -> None:
        """With a state the order is that in which the jobs came into it.

        If this fails: the failure that just happened is not on the first page.
        """
        holder = scene.begin()
        runs = [scene.run(holder) for _ in range(3)]
        scene.add()

        for run in (runs[1], runs[2], runs[0]):
            end = succeeds(run)
            end.at = scene.stamp()
            scene.settle(end)

        expected = [runs[0].id, runs[2].id, runs[1].id]
        assert expected == scene.found(JobFilter(state=State.SUCCEEDED))
        assert expected[::-1] == scene.found(JobFilter(state=State.SUCCEEDED), oldest_first=True)

    def test_equal_instants_are_in_order_of_id(self, scene: Scene) -> None:
        """Jobs of one instant are ordered by id, in the direction of the list.

        If this fails: pages of a batch repeat some jobs and leave others out.
        """
        ids = sorted(scene.add_many(9, created_at=STAMP + 5))

        assert ids[::-1] == scene.found(JobFilter())
        assert ids == scene.found(JobFilter(), oldest_first=True)

    @pytest.mark.parametrize("field", ["task", "queue", "tag", "recurring_id", "server", "fingerprint"])
    def test_each_filter_is_exact(self, scene: Scene, field: str) -> None:
        """A filter finds the jobs that have exactly this value, and no others.

        If this fails: lists show what does not belong to them.
        """
        found = {}
        for value in ("mail", "mail2", "mai"):
            fields = {"tag": {"tags": ("eu", value)}}.get(field, {field: value})
            if field in ("server", "fingerprint"):
                holder = scene.begin(value)
                end = fails(scene.run(holder), error_info(value))
                found[value] = scene.settle(end)
            else:
                found[value] = scene.add(**fields)
        value = "host:mail" if field == "server" else "mail"

        assert [found["mail"]] == scene.found(JobFilter(**{field: value}))  # type: ignore[arg-type]
        assert [] == scene.found(JobFilter(**{field: "mail%"}))  # type: ignore[arg-type]

    def test_a_prefix_finds_ids(self, scene: Scene) -> None:
        """An id's beginning is enough to find it; the text is no pattern.

        If this fails: people cannot search by the eight characters they see.
        """
        ids = scene.add_many(5)
        whole = ids[3]

        assert [whole] == scene.found(JobFilter(id_prefix=whole))
        assert set(ids) >= {whole} == set(scene.found(JobFilter(id_prefix=whole[:-1]))) & {whole}
        assert [one for one in ids[::-1] if one.startswith(ids[0][:8])] == scene.found(
            JobFilter(id_prefix=ids[0][:8])
        )
        assert [] == scene.found(JobFilter(id_prefix="%"))
        assert [] == scene.found(JobFilter(id_prefix=whole[1:]))

    def test_every_filter_has_to_match(self, scene: Scene) -> None:
        """Fields of a filter narrow each other.

        If this fails: a filter is an "or".
        """
        wanted = scene.add(queue="mail", task="send", tags=("eu",))
        scene.add(queue="mail", task="send", tags=("us",))
        scene.add(queue="mail", task="read", tags=("eu",))
        scene.add(queue="other", task="send", tags=("eu",))
        scene.settle(deletes(scene.add(queue="mail", task="send", tags=("eu",))))

        where = JobFilter(state=State.ENQUEUED, queue="mail", task="send", tag="eu")

        assert [wanted] == scene.found(where)

    def test_retrying_is_a_view(self, scene: Scene) -> None:
        """`is_retrying` finds the scheduled jobs with retries, or all others.

        If this fails: snoozed or delayed jobs look like failures.
        """
        holder = scene.begin()
        retrying = scene.settle(retries(scene.run(holder), due_at=BASE + HOUR))
        snoozed = scene.settle(snoozes(scene.run(holder), due_at=BASE + HOUR))
        scheduled = scene.schedule(3_600)
        ended = scene.settle(fails(scene.run(holder, scene.settle(retries(scene.run(holder))))))

        assert [retrying] == scene.found(JobFilter(is_retrying=True))
        assert {snoozed, scheduled, ended} == set(scene.found(JobFilter(is_retrying=False)))

    def test_scheduled_jobs_are_listed_in_order_of_when_they_are_due(self, scene: Scene) -> None:
        """A filter by due finds scheduled jobs alone; the soonest, or the last, comes first.

        If this fails: what starts next is on the last page of what is scheduled.
        """
        late, soon, later = (scene.schedule(60 * minutes) for minutes in (20, 10, 30))
        retrying = scene.settle(retries(scene.run(), due_at=scene.now() + 15 * 60 * SECOND))
        scene.add()

        by_due = JobFilter(state=State.SCHEDULED, by_due=True)

        assert [soon, retrying, late, later] == scene.found(by_due, oldest_first=True)
        assert [later, late, retrying, soon] == scene.found(by_due)
        assert [soon, retrying, late, later] == scene.found(JobFilter(by_due=True), oldest_first=True)
        assert [] == scene.found(JobFilter(state=State.ENQUEUED, by_due=True))

    def test_a_filter_by_due_narrows_like_any_other(self, scene: Scene) -> None:
        """Its other fields hold, and its window of time is that of the instants at which jobs are due.

        If this fails: "due within the hour" shows what was scheduled within the hour, or other queues' jobs.
        """
        due = [BASE + minute * 60 * SECOND for minute in range(4)]
        fields: dict[str, object] = {
            "state": State.SCHEDULED,
            "queue": "mail",
            "task": "send",
            "tags": ("eu",),
        }
        ids = [scene.add(due_at=at, **fields) for at in due]
        scene.add(**{**fields, "due_at": due[1], "queue": "other", "task": "read", "tags": ("us",)})
        ended = scene.settle(retries(scene.run(), due_at=due[2] + 1))

        for where in (JobFilter(queue="mail"), JobFilter(task="send"), JobFilter(tag="eu")):
            within = attrs.evolve(where, by_due=True, since=due[1], until=due[3], is_retrying=False)
            assert ids[1:3] == scene.found(within, oldest_first=True)
        assert [ended] == scene.found(JobFilter(by_due=True, is_retrying=True, queue="default"))

    def test_a_window_is_half_open(self, scene: Scene) -> None:
        """`since` is inclusive and `until` exclusive, by the instant the list is ordered by.

        If this fails: jobs at the edge of a window are shown twice or never.
        """
        ids = [scene.add(created_at=STAMP + second) for second in range(5)]
        for place, job_id in enumerate(ids):
            scene.settle(deletes(job_id, at=STAMP + 100 - place))

        created = scene.found(JobFilter(since=STAMP + 1, until=STAMP + 3))
        changed = scene.found(JobFilter(state=State.DELETED, since=STAMP + 97, until=STAMP + 99))

        assert ([ids[2], ids[1]], [ids[2], ids[3]]) == (created, changed)

    @pytest.mark.parametrize("oldest_first", [False, True])
    @pytest.mark.parametrize("by_due", [None, True])
    @pytest.mark.parametrize("limit", [1, 3, 4, 12, 50])
    def test_pages_show_each_job_once(
        self, scene: Scene, limit: int, by_due: bool | None, oldest_first: bool
    ) -> None:
        """Walking the pages shows every job once, in order of its instant and id, to the last full page.

        If this fails: jobs of one instant are left out or shown twice where pages meet.
        """
        ids = [
            scene.add(created_at=STAMP + place // 3, state=State.SCHEDULED, due_at=BASE + place // 3)
            for place in range(12)
        ]
        ordered = [one for start in range(0, 12, 3) for one in sorted(ids[start : start + 3])]
        ordered = ordered if oldest_first else ordered[::-1]

        walked = _walk(scene, JobFilter(by_due=by_due), limit, oldest_first=oldest_first)

        assert [ordered[start : start + limit] for start in range(0, 12, limit)] == walked

    def test_a_cursor_stays_good_while_jobs_come_and_go(self, scene: Scene) -> None:
        """New jobs, and the removal of the very job a page ended with, neither repeat nor hide others.

        If this fails: pages are counted by offset.
        """
        ids = [scene.add(created_at=STAMP + place) for place in range(6)]
        page = scene.storage.find(JobFilter(), limit=2)
        assert [ids[5], ids[4]] == [job.id for job in page.jobs]

        scene.add(created_at=STAMP + 50)
        scene.settle(deletes(ids[4], expires_at=BASE - HOUR))
        scene.prune()
        rest = scene.storage.find(JobFilter(), limit=10, cursor=page.cursor)

        assert ([ids[3], ids[2], ids[1], ids[0]], None) == ([job.id for job in rest.jobs], rest.cursor)

    def test_pages_of_a_filter_follow_the_filter(self, scene: Scene) -> None:
        """Every page of a filtered list keeps the filter; one may be short, or empty, and not the last.

        If this fails: the second page of a search shows everything.
        """
        wanted = [scene.add(tags=("eu",), queue="mail") for _ in range(5) if scene.add(tags=("us",))]

        walked = _walk(scene, JobFilter(tag="eu", queue="mail"), 2, oldest_first=True)

        assert wanted == [job_id for page in walked for job_id in page]

    @pytest.mark.parametrize("cursor", ["nonsense", "é%'", "W10=", "bnVsbA==", "0"])
    def test_a_bad_cursor_is_refused(self, scene: Scene, cursor: str) -> None:
        """A text that no page gave raises `StorageError`.

        If this fails: a mistyped address shows the first page, or an error of the driver.
        """
        scene.add()

        with pytest.raises(StorageError):
            scene.storage.find(JobFilter(), limit=2, cursor=cursor)

    def test_lists_carry_whole_records(self, scene: Scene) -> None:
        """A listed job is the same record as a fetched one.

        If this fails: a list and a page about the same job differ.
        """
        holder = scene.begin()
        scene.settle(fails(scene.run(holder, scene.add(tags=("b", "a")))))
        scene.continuation(scene.schedule(60), tags=("x",))

        page = scene.storage.find(JobFilter(), limit=10)

        assert scene.storage.get([job.id for job in page.jobs]) == page.jobs
        assert 3 == len(page.jobs)

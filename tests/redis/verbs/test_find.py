"""Lists in Redis: exact in order and content for every way to read them, and bounded for any data."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest

from firelock.model.clock import SECOND
from firelock.model.state import State
from firelock.storage import JobFilter, is_damaged, rules
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.scene import (
    STAMP,
    Running,
    deletes,
    error_info,
    fails,
    retries,
    succeeds,
)
from firelock_redis.verbs.find import PAGE_COST, RARE, SCRIPT_COST
from tests.redis.servers import RedisServer
from tests.scenes import scene_at

PARTED = "partitions=4"
QUEUES = ["bulk", "default", "mail"]


@pytest.fixture
def scene(server, request):
    """An empty storage with one partition, unless the test sets options."""
    server.empty()
    with scene_at(server.socket_url(getattr(request, "param", ""))) as scene:
        yield scene


alone_and_parted = pytest.mark.parametrize("scene", ["", PARTED], ids=["alone", "parted"], indirect=True)


def walked(scene, where, limit, *, oldest_first=False):
    """Return the jobs of all pages."""
    page = scene.storage.find(where, limit=limit, oldest_first=oldest_first)
    jobs = page.jobs
    while page.cursor is not None:
        assert len(page.jobs) <= limit
        page = scene.storage.find(where, limit=limit, cursor=page.cursor, oldest_first=oldest_first)
        jobs = jobs + page.jobs
    return jobs


def expected(jobs, where, *, oldest_first=False):
    """Return the jobs of the list, in order, by the rules that all storages share."""
    return rules.paged(jobs, where, limit=len(jobs) + 1, cursor=None, oldest_first=oldest_first).jobs


def ids(jobs):
    """Return the jobs' ids."""
    return [job.id for job in jobs]


# ---- order and content -------------------------------------------------------------------------------------


def live(scene, chance):
    """Store jobs of every kind with only a few different times; return their ids."""
    holders = [scene.begin("a"), scene.begin("b")]
    known: list[str] = []
    for _ in range(40):
        fields = {
            "queue": chance.choice(QUEUES), "task": chance.choice(["send", "read\tit"]),
            "tags": tuple(chance.sample(["eu", "ü{x}", "big"], chance.randrange(3))),
            "recurring_id": chance.choice([None, "nightly"]), "created_at": STAMP + chance.randrange(4),
        }  # fmt: skip
        known += scene.add_many(chance.choice([1, 4]), **fields)
        known.append(scene.continuation(chance.choice(known), **{**fields, "recurring_id": None}))
        holder = chance.choice(holders)
        runs = [Running(job, holder) for job in scene.claim(holder, 3, QUEUES)]
        error = error_info(chance.choice(["plain", 'quo"ted', ', "plain']), message='a ", "plain"]')
        ends = [succeeds, partial(fails, error=error), partial(retries, error=error)]
        scene.storage.apply([chance.choice(ends)(run) for run in runs if chance.random() < 0.7])
        scene.storage.apply([deletes(chance.choice(known), at=STAMP + chance.randrange(4))])
    return known


def drawn(chance, jobs):
    """Return a filter with several conditions."""
    one = chance.choice(jobs)
    values = {
        "state": chance.choice(list(State)), "task": "read\tit", "queue": chance.choice([*QUEUES, "none"]),
        "tag": chance.choice(["eu", "ü{x}", "none"]), "server": "host:a", "recurring_id": "nightly",
        "fingerprint": chance.choice(["plain", 'quo"ted', ', "plain']), "is_retrying": chance.random() < 0.5,
        "id_prefix": one.id[: chance.choice([1, 34, 36])], "since": STAMP + 1, "until": STAMP + 3,
        "by_due": True, "parent_id": next(job.parents[0].parent_id for job in jobs if job.parents),
    }  # fmt: skip
    return JobFilter(**{name: value for name, value in values.items() if chance.random() < 0.2})


@alone_and_parted
@pytest.mark.parametrize("seed", range(3))
def test_pages_contain_exactly_the_matching_jobs(scene, seed):
    """For every filter, the pages contain the same jobs in the same order as a check of every single job."""
    chance = random.Random(seed)
    jobs = [scene.record(id) for id in live(scene, chance)]

    for _ in range(150):
        where, limit, oldest_first = drawn(chance, jobs), chance.choice([3, 50]), chance.random() < 0.5
        right = expected(jobs, where, oldest_first=oldest_first)
        assert right == walked(scene, where, limit, oldest_first=oldest_first), (where, limit, oldest_first)


@alone_and_parted
@pytest.mark.parametrize("oldest_first", [False, True])
def test_jobs_of_one_time_are_paged_by_id(scene, oldest_first):
    """All jobs with the same time are sorted by id across pages, queues and partitions."""
    known = [
        id for queue in QUEUES for _ in range(5)
        for id in scene.add_many(400, queue=queue, created_at=STAMP)
    ]  # fmt: skip
    right = sorted(known, reverse=not oldest_first)

    for where in (JobFilter(), JobFilter(State.ENQUEUED)):
        assert right == ids(walked(scene, where, 700, oldest_first=oldest_first))


def test_jobs_of_one_time_are_ordered_by_bytes_of_their_ids(scene):
    """In one queue or several, the order depends on neither the case of letters nor the server's language."""
    unsorted = ["B-1", "a-1", "a_1", "A", "a", "é", "z", "\U0001f525", "aa", "12345678x", "12345678"]
    for place, id in enumerate(unsorted):
        scene.add(id=id, queue=QUEUES[place % 3], created_at=STAMP)

    for where in (JobFilter(), JobFilter(State.ENQUEUED)):
        assert sorted(unsorted) == ids(walked(scene, where, 2, oldest_first=True))
        assert sorted(unsorted, reverse=True) == ids(walked(scene, where, 3))


@alone_and_parted
def test_pages_merge_jobs_of_many_queues(scene):
    """There may be more queues than one script reads."""
    known = [scene.add(queue=f"queue{place % 70}", created_at=STAMP + place // 3) for place in range(140)]
    jobs = scene.storage.get(known)

    assert expected(jobs, JobFilter(State.ENQUEUED)) == walked(scene, JobFilter(State.ENQUEUED), 9)
    assert {f"queue{place}": {State.ENQUEUED: 2} for place in range(70)} == scene.storage.counts().by_queue


# ---- many jobs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(program):
    """A server for the crowd alone, so that no other test empties it."""
    with RedisServer(program) as server:
        yield server


@pytest.fixture(scope="module")
def crowd(crowded):
    """A storage with more jobs than one page may read; the oldest one is special."""
    with scene_at(crowded.socket_url()) as scene:
        scene.first = scene.add(task="rare", tags=("odd",), recurring_id="nightly")
        for _ in range(PAGE_COST // 2_000):
            scene.add_many(1_000)
        scene.tagged = scene.add_many(RARE + 500, tags=("common",))
        scene.storage.apply([deletes(id, at=STAMP + place) for place, id in enumerate(scene.tagged[:50])])
        yield scene


@pytest.mark.parametrize("where", [JobFilter(task="rare"), JobFilter(State.ENQUEUED, task="rare")])
def test_search_for_a_page_is_bounded(crowd, where):
    """The next page continues the search, so the first one can be empty and still have a cursor."""
    pages = [crowd.storage.find(where, limit=10)]
    while pages[-1].cursor is not None:
        pages.append(crowd.storage.find(where, limit=10, cursor=pages[-1].cursor))

    assert 2 <= len(pages) <= 6
    assert [] == pages[0].jobs
    assert [crowd.first] == [job.id for page in pages for job in page.jobs]


def test_scripts_of_a_page_are_short(crowd, crowded):
    """If a page finds no jobs, about fifteen scripts run, each of which reads some thousand jobs."""
    before = calls(crowded)

    crowd.storage.find(JobFilter(task="nobody's"), limit=10)

    assert PAGE_COST // SCRIPT_COST <= calls(crowded) - before <= PAGE_COST // SCRIPT_COST + 2


def calls(server):
    """Return how many scripts the server has run."""
    return sum(
        int(line.partition("calls=")[2].partition(",")[0])
        for name, line in server.info("commandstats").items() if name.startswith("cmdstat_eval")
    )  # fmt: skip


def test_rare_tags_and_definitions_are_found_with_one_page(crowd):
    """A single page contains all jobs of a rare tag or recurring definition, so it has no next page."""
    for where in (
        JobFilter(tag="odd"),
        JobFilter(recurring_id="nightly"),
        JobFilter(State.ENQUEUED, tag="odd"),
        JobFilter(tag="odd", recurring_id="nightly", task="rare"),
    ):
        page = crowd.storage.find(where, limit=10)
        assert ([crowd.first], None) == (ids(page.jobs), page.cursor), where


def test_common_tag_is_read_in_the_list_of_the_state(crowd):
    """If a tag has too many jobs to sort, the list of the state is read instead. The order is the same."""
    deleted, enqueued = JobFilter(State.DELETED, tag="common"), JobFilter(State.ENQUEUED, tag="common")

    assert crowd.tagged[:50] == ids(walked(crowd, deleted, 20, oldest_first=True))
    assert set(crowd.tagged[50:]) == set(ids(walked(crowd, enqueued, 1_000)))


def test_large_page_is_returned_whole(crowd):
    """A limit of several thousand takes as many round trips as necessary.

    A limit of 0 returns an empty page.
    """
    page = crowd.storage.find(JobFilter(tag="common"), limit=RARE + 400)
    nothing = crowd.storage.find(JobFilter(), limit=0)

    assert ([], None) == (nothing.jobs, nothing.cursor)
    assert RARE + 400 == len(set(ids(page.jobs)))
    assert page.cursor is not None


# ---- counts ------------------------------------------------------------------------------------------------


@alone_and_parted
def test_failure_groups_count_all_queues(scene):
    """The groups are complete even if more jobs have failed than one script reads.

    Each group shows its newest failure.
    """
    holder = scene.begin()
    scene.storage.insert([scene.new_job(queue=QUEUES[place % 3]) for place in range(1_200)])
    claimed = [job for _ in range(20) for job in scene.claim(holder, 200, QUEUES)]
    marks = ["common", 'quo"ted', "rare"]
    ends = [
        fails(Running(job, holder), error_info(marks[(place % 7 > 3) + (place == 7)], message=f"m{place}"))
        for place, job in enumerate(claimed)
    ]
    for place, end in enumerate(ends):
        end.at = STAMP + place * SECOND
    scene.storage.apply(ends)

    groups = scene.storage.failure_groups(10)

    sizes = Counter(end.error.fingerprint for end in ends)
    newest = {end.error.fingerprint: (end.at, end.error.message, end.job_id) for end in ends}
    assert 1_200 == len(ends)
    assert sizes.most_common() == [(group.fingerprint, group.count) for group in groups]
    assert newest == {
        group.fingerprint: (group.newest_at, group.message, group.sample_id) for group in groups
    }


def test_counts_include_a_thousand_queues(scene):
    """The counts are complete even if there are more queues than one script counts."""
    names = [f"queue{place}" for place in range(1_000)]
    scene.storage.insert([scene.new_job(queue=queue) for queue in names])
    scene.claim(scene.begin(), 1, ["queue7"])

    counts = scene.storage.counts()

    assert {State.ENQUEUED: 999, State.PROCESSING: 1} == counts.by_state
    assert set(names) == set(counts.by_queue)
    assert {State.PROCESSING: 1} == counts.by_queue["queue7"]


def test_large_jobs_are_read_completely(scene):
    """Jobs that do not fit into one reply are requested again."""
    texts = [f'"{place}{"x" * 200_000}"' for place in range(30)]
    known = [scene.add(arguments=text) for text in texts]

    jobs = scene.storage.get([*known, "unknown", known[0]])

    assert texts == [job.arguments for job in jobs[:30]]
    assert (None, known[0]) == (jobs[30], jobs[31].id)
    assert known[::-1] == ids(walked(scene, JobFilter(), 30))


# ---- damaged values ----------------------------------------------------------------------------------------


def overwrite(server, kind, id, change, text=""):
    """Replace a part of a job's stored string, or all of it."""
    key, client = f"firelock:{{0}}:{kind}", server.client()
    stored = str(client.hget(key, id) or "")
    assert change is None or change[0] in stored
    client.hset(key, id, text if change is None else stored.replace(*change, 1))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("jobs", None),
        ("jobs", ("E", "B")),
        ("jobs", (" default ", " ")),
        ("jobs", ("\t\t", "\t")),
        ("payloads", None),
        ("payloads", ("\t", " ")),
        ("payloads", ('["one"]', '["one"')),
        ("payloads", ('["one"]', "[" * 100_000)),
        ("payloads", (",[],", ",[[7]],")),
    ],
)
def test_unreadable_job_is_shown_without_affecting_others(scene, server, kind, change):
    """The job keeps its position in the lists and shows the problem.

    The other jobs in the lists are complete.
    """
    before, bad, behind = (scene.add(tags=("one",)) for _ in range(3))
    overwrite(server, kind, bad, change, "garbage")

    for where in (JobFilter(), JobFilter(tag="one"), JobFilter(State.ENQUEUED)):
        jobs = walked(scene, where, 2, oldest_first=True)
        assert [before, bad, behind] == ids(jobs), where
        assert [None, "the stored data of this job cannot be read", None] == [job.reason for job in jobs]
    assert bad == scene.record(bad).id
    assert {State.ENQUEUED: 3} == scene.storage.counts().by_state


def test_unreadable_failed_job_is_in_no_failure_group(scene, server):
    """The failure groups contain only the other jobs."""
    holder = scene.begin()
    bad, good = (scene.settle(fails(scene.run(holder))) for _ in range(2))
    overwrite(server, "jobs", bad, ('"]', '"'))

    assert [(1, good)] == [(group.count, group.sample_id) for group in scene.storage.failure_groups(5)]


def test_unreadable_history_lines_are_skipped(scene, server):
    """The remaining entries and attempts are shown."""
    holder = scene.begin()
    job_id = scene.settle(retries(scene.run(holder)))
    scene.settle(fails(scene.run(holder, job_id)))
    history, errors = scene.history(job_id), scene.errors(job_id)
    client = server.client()

    overwrite(server, "jobs", job_id, ('["failed"', '["banana"'))
    client.lset(f"firelock:{{0}}:e:{job_id}", 0, "garbage")

    assert history[:-1] == scene.history(job_id)
    assert errors[1:] == scene.errors(job_id)
    overwrite(server, "jobs", job_id, None, "garbage")
    assert [] == scene.history(job_id)


def test_new_fields_of_a_newer_release_are_ignored(scene, server):
    """Payloads, errors, history entries, attempts and sessions may have new fields.

    The known fields are still read.
    """
    holder = scene.begin()
    parent = scene.settle(fails(scene.run(holder, scene.add(tags=("one",)))))
    child = scene.continuation(parent, tags=("one",))
    client = server.client()

    def seen():
        records, sessions = [scene.record(one) for one in (parent, child)], scene.storage.list_sessions()
        return records, sessions, scene.history(parent), scene.errors(parent)

    before = seen()
    overwrite(server, "payloads", child, ('","succeeded"]', '","succeeded",0,{"new":1}]'))
    overwrite(server, "payloads", child, ("]\n", ',null,{"new":1}]\n'))
    overwrite(server, "jobs", parent, ('"boom"]\n', '"boom",{"new":1}]\n'))
    overwrite(server, "jobs", parent, ('"host:a"]\n', '"host:a",0,null,{"new":1}]\n'))
    stored = client.lindex(f"firelock:{{0}}:e:{parent}", 0)
    client.lset(f"firelock:{{0}}:e:{parent}", 0, stored[:-1] + ',{"new":1}]')

    assert before == seen()


def test_member_with_damaged_relations_does_not_affect_others(scene, server):
    """The member is claimed, settled and pruned like the other members."""
    flow = FlowScene(scene.handles)
    batch = flow.batch()
    bad, good = flow.member(batch), flow.member(batch)
    overwrite(server, "payloads", bad, (f'[\\"{batch}', f'x[\\"{batch}'))
    holder = flow.begin()

    running = flow.running(holder, bad, good)

    assert is_damaged(running[0].job.relations_json)
    for one in running:
        flow.settle(succeeds(one, expires_at=1))
    assert [State.SUCCEEDED] * 2 == flow.states(bad, good)
    assert 1 <= flow.storage.prune(10)


def test_job_without_a_record_is_skipped(scene, server):
    """No list contains the job, and it cannot be found in any other way."""
    broken, good = scene.add(), scene.add()
    server.client().hdel("firelock:{0}:jobs", broken)

    assert [good] == ids(walked(scene, JobFilter(), 1))
    assert [None] == scene.storage.get([broken])
    assert [] == scene.history(broken)

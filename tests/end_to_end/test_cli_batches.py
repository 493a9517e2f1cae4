"""`firelock batches` and `firelock jobs steps|signal|read`: showing and changing batches and memos."""

from __future__ import annotations

import pytest

from firelock import Firelock, State
from firelock.model.memo import chunk_offset
from firelock.storage import Chunk, FoundJobs
from tests.dashboard import flows


@pytest.fixture
def app(request):
    """An app in a storage that the commands open by its name."""
    with Firelock(f"memory://{request.node.originalname}") as app:
        yield app


@pytest.fixture
def command(run, app):
    """Return a function that runs a command on the app's storage."""
    return lambda *words: run(*words, "--storage", app.storage.url)


@pytest.fixture
def job(app):
    """A running member of a batch."""
    flows.add(app, flows.new_batch(app))
    (job,) = flows.claim(app)
    return job


def failed_batch(app, members=2):
    batch = flows.new_batch(app, "import")
    for _ in range(members):
        flows.add(app, batch)
    for number, job in enumerate(flows.claim(app)):
        flows.end(app, job, State.SUCCEEDED if number else State.FAILED)
    return batch


def test_batches_are_listed_with_their_progress(command, app):
    """The newest batch is first, and an open batch is shown as "open"."""
    failed_batch(app)
    flows.add(app, flows.new_batch(app, "letters"))

    lines = command("batches list").out.splitlines()

    assert lines[0].split() == [
        "ID", "STATE", "NAME", "ENDED", "BATCHES", "FAILED", "ACTIVE", "WAITING", "CREATED",
    ]  # fmt: skip
    assert ["open", "letters", "0/1", "0", "0", "1", "0"] == lines[1].split()[1:8]
    assert ["failed", "import", "2/2", "0", "1", "0", "0"] == lines[2].split()[1:8]
    (only,) = command("batches list --state failed --json").json["batches"]
    assert (only["name"], only["total"], only["failed"], only["progress"]) == ("import", 2, 1, 1.0)


def test_list_shows_the_outer_batch(command, app):
    """The column is omitted if no batch has an outer batch. The JSON contains the id of the outer batch."""
    outer = flows.new_batch(app, "year")
    flows.new_batch(app, "january", outer=outer)

    lines = command("batches list").out.splitlines()
    inner, _ = command("batches list --json").json["batches"]

    assert lines[0].split()[-2:] == ["CREATED", "WITHIN"]
    (row,) = [line for line in lines if "january" in line]
    assert row.split()[-1] == "year"
    assert inner["batch"] == outer


def test_pages_of_batches_are_consecutive(command, app):
    for number in range(3):
        flows.new_batch(app, f"b{number}")

    first = command("batches list --limit 2 --json").json
    second = command("batches list --limit 2 --json --cursor", first["cursor"]).json

    assert ["b2", "b1", "b0"] == [one["name"] for one in first["batches"] + second["batches"]]
    assert second["cursor"] is None


def test_show_prints_progress_and_failed_members(command, app):
    batch = failed_batch(app)

    shown = command("batches show", batch)

    assert "Batch import" in shown.out
    assert "2 of 2 members (100%)" in shown.out
    assert "including inner" not in shown.out
    assert "Failed members" in shown.out
    assert "shop.load" in shown.out
    assert 1 == len(command("batches show", batch, "--json").json["failed_members"])


def test_show_counts_members_and_inner_jobs_separately(command, app):
    """An inner batch counts as one member. The jobs of all inner batches are counted on a separate line."""
    outer = flows.new_batch(app, "year")
    for name in ("january", "february"):
        inner = flows.new_batch(app, name, outer=outer)
        for _ in range(3):
            flows.add(app, inner)
    flows.add(app, outer)
    job = flows.claim(app, 1)[0]
    flows.end(app, job, State.FAILED)

    shown = command("batches show", outer).out
    answer = command("batches show", outer, "--json").json
    listed = command("batches list").out.splitlines()

    assert "0 of 3 members (0%), 2 of them batches" in shown
    assert "1 of 7 jobs ended (14%), 1 failed, in 2 inner batches" in shown
    assert (answer["total"], answer["batches"], answer["within"]["total"]) == (3, 2, 7)
    assert (answer["within"]["failed"], answer["within"]["batches"]) == (1, 2)
    (row,) = [words for line in listed if (words := line.split())[2] == "year"]
    assert row[3:5] == ["0/3", "2"]


def test_show_finds_failed_members_after_empty_pages(command, app, monkeypatch):
    """A storage may return an empty page even if more members follow."""
    batch = failed_batch(app)
    kind, find = type(app.storage), type(app.storage).find

    def empty_first(self, where, *, limit, cursor=None, oldest_first=False):
        if where.state is State.FAILED and cursor is None:
            return FoundJobs([], "further")
        return find(
            self,
            where,
            limit=limit,
            cursor=None if cursor == "further" else cursor,
            oldest_first=oldest_first,
        )

    monkeypatch.setattr(kind, "find", empty_first)

    assert "shop.load" in command("batches show", batch).out


def test_show_has_no_inner_counts_without_inner_batches(command, app):
    assert command("batches show", failed_batch(app), "--json").json["within"] is None


def test_failed_members_are_requeued(command, app):
    batch = failed_batch(app)

    assert "open again" in command("batches requeue", batch).out

    assert 1 == app.batches.get(batch).counts().active
    assert 1 == app.jobs.counts().by_state[State.ENQUEUED]


def test_batch_is_cancelled(command, app):
    batch = flows.new_batch(app)
    member = flows.add(app, batch)

    assert "cancelled" in command("batches cancel", batch).out
    while app.storage.release(100):
        pass

    assert State.DELETED is app.jobs.get(member).state
    assert State.DELETED is app.batches.get(batch).state


def test_unknown_batch_is_not_found(command, job):
    for verb in ("show", "cancel", "requeue"):
        failed = command(f"batches {verb}", job.id)
        assert 0 != failed.code
        assert job.id in failed.error


def test_steps_are_listed(command, app, job):
    flows.remember(app, job, "step", "charge", '"ch_7"')
    flows.remember(app, job, "signal", "approval", None, is_done=False)

    lines = command("jobs steps", job.id).out.splitlines()

    assert ["charge", "step", "1.5"] == lines[1].split()[:3]
    assert '"ch_7"' in lines[1]
    assert "approval (in progress)" in lines[2]
    steps = command("jobs steps", job.id, "--json").json["steps"]
    assert [("charge", "step", True, 1.5), ("approval", "signal", False, None)] == [
        (one["name"], one["kind"], one["is_done"], one["took_seconds"]) for one in steps
    ]


def test_change_of_a_batch_has_an_audit_entry(command, app, monkeypatch):
    """If a reason is given, it is in the audit entry and in the histories of the members."""
    monkeypatch.setenv("LOGNAME", "ada")
    batch = failed_batch(app)

    command("batches requeue", batch, "--reason", "the disk is mended")
    command("batches cancel", batch)

    cancel, requeue = app.audit.list()
    assert ("jobs.requeue", f"batch {batch}", "ada") == (requeue.action, requeue.target, requeue.by)
    assert {"reason": "the disk is mended"} == requeue.detail
    assert ("jobs.delete", f"batch {batch}", "cli") == (cancel.action, cancel.target, cancel.origin)


def test_signal_is_sent_once(command, app, job):
    flows.end(app, job, State.AWAITING, waits_for="signal approval", gives_back=True)

    first = command("jobs signal", job.id, "approval", '{"ok": true}')
    second = command("jobs signal", job.id, "approval", "false")

    assert (0, "sent") == (first.code, first.out.split()[-1])
    assert 0 != second.code
    assert "too late" in second.out
    assert State.ENQUEUED is app.jobs.get(job.id).state
    (memo,) = app.storage.recall(job.id)
    assert '{"ok": true}' == memo.value
    (entry,) = app.audit.list().entries
    assert ("signal.send", job.id, "cli") == (entry.action, entry.target, entry.origin)


def test_signal_for_which_the_job_does_not_wait_is_refused(command, app, job):
    """A misspelled signal would be stored forever. A signal for a later wait requires `--early`."""
    flows.end(app, job, State.AWAITING, waits_for="signal approval", gives_back=True)

    refused = command("jobs signal", job.id, "aproval", "true")
    early = command("jobs signal", job.id, "manager", "true", "--early")

    assert f"Job {job.id} waits for signal 'approval' now, not for 'aproval'." in refused.error
    assert "--early" in refused.error
    assert (True, 0) == (refused.code != 0, early.code)
    assert ["manager"] == [memo.name for memo in app.storage.recall(job.id)]


def test_waits_are_shown_with_their_end(command, app, job):
    """The output contains the time at which a sleep ends, and the deadline of a wait for a signal."""
    flows.remember(app, job, "signal", "approval", "1893456000000000", is_done=False)
    flows.remember(app, job, "signal", "manager", None, is_done=False)
    flows.remember(app, job, "sleep", "night", "1893456000000000")

    lines = command("jobs steps", job.id).out.splitlines()[1:]
    steps = command("jobs steps", job.id, "--json").json["steps"]

    assert [True, False, True] == ["until 2030-01-01 00:00:00" in line for line in lines]
    assert "until it is sent" in lines[1]
    day = "2030-01-01T00:00:00.000000Z"
    assert [(day, None), (None, None), (day, None)] == [(one["until"], one["value"]) for one in steps]


def test_argument_from_another_job_names_that_job(command, app):
    """The output names the other job before and after it has run, because null would look like a value."""

    @app.task(name="count")
    def count() -> int:
        return 7

    @app.task(name="report")
    def report(total: int, rows: list[int | None]) -> None: ...

    with app.batch("day") as batch:
        source = batch.add(count)
        taker = batch.add(report, source.output, [None, source.output])

    shown, details = command("jobs show", taker.id).out, command("jobs show", taker.id, "--json").json
    output = f"<output of {source.id}>"
    assert f'{{"total":"{output}","rows":[null,"{output}"]}}' in shown
    assert {"total": output, "rows": [None, output]} == details["arguments"]


@pytest.mark.parametrize(
    ("words", "message"), [(("a", "{"), "must be JSON"), (("a", "1"), "cannot receive a signal")]
)
def test_invalid_signal_is_refused(command, app, job, words, message):
    flows.end(app, job)

    failed = command("jobs signal", job.id, *words)

    assert 0 != failed.code
    assert message in failed.error
    assert [] == app.storage.recall(job.id)


def test_signal_to_an_unknown_job_is_refused(command):
    assert "was not found" in command("jobs signal nobody approval true").error


def test_job_runs_again_from_a_step(command, app, job):
    for name in ("a", "b", "c"):
        flows.remember(app, job, "step", name, "1")
    flows.end(app, job, State.FAILED)

    assert "requeued" in command("jobs requeue", job.id, "--from", "b").out

    assert ["a"] == [memo.name for memo in app.storage.recall(job.id)]
    assert "exactly one job id" in command("jobs requeue --all --state failed --from b").error


def test_output_of_a_stream_is_printed(command, app, job):

    chunks = [
        Chunk("out", chunk_offset(job.fence, number), text) for number, text in enumerate(("a ", "b\n"))
    ]
    app.storage.append_stream(job.id, chunks, session=flows.SESSION, fence=job.fence)
    flows.end(app, job)

    assert "a b\n" == command("jobs read", job.id).out
    printed = command("jobs read", job.id, "--json").json["chunks"]
    assert ["a ", "b\n"] == [one["data"] for one in printed]

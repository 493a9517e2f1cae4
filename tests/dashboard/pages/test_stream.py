"""What a job emits, as events: read again by offset, told where a run began anew, ended with the job."""

from __future__ import annotations

import pytest

from firelock.model.memo import chunk_offset
from firelock.storage import Chunk, State
from tests.dashboard.flows import SESSION, claim, end


@pytest.fixture
def job(fire):
    """A job that runs."""

    @fire.task(name="shop.answer")
    def answer(question: str) -> None:
        """Never run here."""

    answer.enqueue("why")
    (job,) = claim(fire)
    return job


def emit(fire, job, *texts, stream="out", first=0):
    chunks = [
        Chunk(stream, chunk_offset(job.fence, number), text) for number, text in enumerate(texts, start=first)
    ]
    return fire.storage.append_stream(job.id, chunks, session=SESSION, fence=job.fence)


def events_of(answer):
    """Pairs of an event's name and its text, and the ids."""
    pairs, ids = [], []
    for block in answer.text.split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n")]
        fields = {name: value for name, _, value in lines if name != "data"}
        if "event" in fields:
            pairs.append((fields["event"], "\n".join(value for name, _, value in lines if name == "data")))
        if "id" in fields:
            ids.append(int(fields["id"]))
    return pairs, ids


def test_a_stream_that_has_ended_is_read_to_its_end(fire, client, job):
    emit(fire, job, "Once ", "upon\na time")
    end(fire, job)
    answer = client.get(f"/jobs/{job.id}/stream")
    assert answer.header("content-type").startswith("text/event-stream")
    pairs, ids = events_of(answer)
    assert pairs == [("run", "1"), ("chunk", "Once "), ("chunk", "upon\na time"), ("end", "succeeded")]
    assert ids == [chunk_offset(1, 0), chunk_offset(1, 1)]


def test_who_was_cut_off_goes_on_behind_the_last_event(fire, client, job):
    emit(fire, job, "a", "b", "c")
    end(fire, job)
    last = str(chunk_offset(1, 1))
    for asked in (
        client.get(f"/jobs/{job.id}/stream", headers={"last-event-id": last}),
        client.get(f"/jobs/{job.id}/stream?after={last}"),
    ):
        assert events_of(asked)[0] == [("run", "1"), ("chunk", "c"), ("end", "succeeded")]


def test_a_run_that_began_anew_is_told(fire, client, job):
    emit(fire, job, "half a sent")
    end(fire, job, State.ENQUEUED, gives_back=True)
    (again,) = claim(fire)
    emit(fire, again, "the whole sentence")
    end(fire, again)
    pairs, _ = events_of(client.get(f"/jobs/{job.id}/stream"))
    assert [pair for pair in pairs if pair[0] == "run"] == [("run", "1"), ("run", "2")]


def test_streams_of_a_job_are_apart(fire, client, job):
    emit(fire, job, "out")
    emit(fire, job, "err", stream="err", first=1)
    end(fire, job)
    pairs, _ = events_of(client.get(f"/jobs/{job.id}/stream?name=err"))
    assert pairs == [("run", "1"), ("chunk", "err"), ("end", "succeeded")]


def test_many_chunks_all_arrive(fire, client, job):
    for start in range(0, 250, 50):
        emit(fire, job, *map(str, range(start, start + 50)), first=start)
    end(fire, job)
    pairs, _ = events_of(client.get(f"/jobs/{job.id}/stream"))
    assert [text for name, text in pairs if name == "chunk"] == list(map(str, range(250)))


def test_a_job_that_emits_nothing_ends_all_the_same(fire, client, job):
    end(fire, job, State.FAILED)
    assert events_of(client.get(f"/jobs/{job.id}/stream"))[0] == [("end", "failed")]


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 25])
def test_what_is_no_offset_is_refused(client, job, after):
    assert client.get(f"/jobs/{job.id}/stream?after={after}").status == 400


def test_an_unknown_job_has_no_stream(client):
    assert client.get("/jobs/unknown/stream").status == 404

"""A job's output as events, which can be read again from an offset.

An event marks the start of each run, and the last one is the end of the job.
"""

from __future__ import annotations

import html
import re
from contextlib import closing
from urllib.parse import quote

import pytest

from firelock.model.memo import chunk_offset
from firelock.storage import Chunk, State
from firelock_dashboard import Dashboard
from tests.dashboard.browser import Browser
from tests.dashboard.flows import SESSION, claim, end


@pytest.fixture
def job(fire):
    """A running job."""

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
    """Return pairs of an event's name and its text, and the ids of the events."""
    pairs, ids = [], []
    for block in answer.text.split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n")]
        fields = {name: value for name, _, value in lines if name != "data"}
        if "event" in fields:
            pairs.append((fields["event"], "\n".join(value for name, _, value in lines if name == "data")))
        if "id" in fields:
            ids.append(int(fields["id"]))
    return pairs, ids


def test_ended_stream_is_read_to_its_end(fire, client, job):
    emit(fire, job, "Once ", "upon\na time")
    end(fire, job)
    answer = client.get(f"/jobs/{job.id}/stream")
    assert answer.header("content-type").startswith("text/event-stream")
    pairs, ids = events_of(answer)
    assert pairs == [("run", "1"), ("chunk", "Once "), ("chunk", "upon\na time"), ("end", "succeeded")]
    assert ids == [chunk_offset(1, 0), chunk_offset(1, 1)]


def test_reconnected_reader_continues_after_the_last_event(fire, client, job):
    emit(fire, job, "a", "b", "c")
    end(fire, job)
    last = str(chunk_offset(1, 1))
    for answer in (
        client.get(f"/jobs/{job.id}/stream", headers={"last-event-id": last}),
        client.get(f"/jobs/{job.id}/stream?after={last}"),
    ):
        assert events_of(answer)[0] == [("run", "1"), ("chunk", "c"), ("end", "succeeded")]


def test_new_run_is_announced_by_an_event(fire, client, job):
    emit(fire, job, "half a sent")
    end(fire, job, State.ENQUEUED, gives_back=True)
    (again,) = claim(fire)
    emit(fire, again, "the whole sentence")
    end(fire, again)
    pairs, _ = events_of(client.get(f"/jobs/{job.id}/stream"))
    assert [pair for pair in pairs if pair[0] == "run"] == [("run", "1"), ("run", "2")]


def test_streams_of_a_job_are_separate(fire, client, job):
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


def test_stream_of_a_job_without_output_ends(fire, client, job):
    end(fire, job, State.FAILED)
    assert events_of(client.get(f"/jobs/{job.id}/stream"))[0] == [("end", "failed")]


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 25])
def test_invalid_offset_is_refused(client, job, after):
    assert client.get(f"/jobs/{job.id}/stream?after={after}").status == 400


def test_stream_of_an_unknown_job_is_not_found(client):
    assert client.get("/jobs/unknown/stream").status == 404


# ---- the page of the job ---------------------------------------------------------------------------------


def panel_of(client, job, query=""):
    """Return the panel, or None if it is hidden."""
    page = client.get(f"/jobs/{job.id}{query}").text
    card = page.partition('id="stream"')[2].partition("</section>")[0]
    return None if card.partition(">")[0].endswith("hidden") else card


def text_of(card):
    pieces = re.findall(r"<span data-offset[^>]*>(.*?)</span>", card, re.DOTALL)
    return html.unescape("".join(pieces))


def follow(client, job, offset):
    """Return the text and offsets that the page's script gets for the output after an offset."""
    answer = client.get(f"/jobs/{job.id}?stream=out&offset={offset}&part=stream")
    return text_of(answer.text), [int(one) for one in re.findall(r'data-offset="(\d+)"', answer.text)]


def test_job_page_shows_emitted_output(fire, client, job):
    """A panel with the escaped text appears after the first output.

    Later requests return only the text after the last offset.
    """
    assert panel_of(client, job) is None
    assert "Nothing has been emitted" in panel_of(client, job, "?stream=other")
    emit(fire, job, "Once\n", "<b>upon</b> ")

    card = panel_of(client, job)

    assert "Once\n<b>upon</b> " == text_of(card)
    assert "&lt;b&gt;upon" in card
    assert ("", []) == follow(client, job, chunk_offset(1, 1))
    emit(fire, job, "a time", first=2)
    assert ("a time", [chunk_offset(1, 2)]) == follow(client, job, chunk_offset(1, 1))


def test_hostile_output_is_text(fire, client, job, hostile):
    emit(fire, job, hostile or "-")

    assert "<script" not in panel_of(client, job).replace("</script", "")
    assert client.get(f"/jobs/{job.id}?stream={quote(hostile)}").status in {200, 400}


@pytest.mark.parametrize("count", [99, 100, 101, 128, 129, 612])
def test_end_of_a_long_stream_is_shown(fire, client, job, count):
    """The newest hundred chunks are shown.

    Links lead to the beginning of the stream and to the chunks that follow it.
    """
    emit(fire, job, *(f"[{number}]" for number in range(count)))

    card = panel_of(client, job)

    first = max(0, count - 100)
    assert "".join(f"[{number}]" for number in range(first, count)) == text_of(card)
    assert (first == 0) == ("data-stream-cut hidden" in card)
    start = panel_of(client, job, "?stream=out&offset=-1")
    assert text_of(start).startswith("[0][1]")
    if count > 100:
        more = html.unescape(re.search(r'<footer><a href="[^"?]*(\?[^"#]*)', start)[1])
        assert text_of(panel_of(client, job, more)).startswith("[100]")


def test_last_run_with_output_is_shown(fire, client, job):
    """The panel shows the last run that emitted anything."""
    emit(fire, job, *["a"] * 150)
    for _ in range(3):
        end(fire, job, State.ENQUEUED)
        (job,) = claim(fire)
    emit(fire, job, "again")
    end(fire, job, State.ENQUEUED)
    (job,) = claim(fire)

    assert "again" == text_of(panel_of(client, job))


def test_part_of_a_stream_has_a_maximum_size(fire, client, job):
    """If chunks are large, fewer of them are shown, but at least one. The next part begins after them."""
    emit(fire, job, *(letter * 16_000 for letter in "abcdefghijkl"))

    shown = text_of(panel_of(client, job))

    assert (128_000, "e", "l") == (len(shown), shown[0], shown[-1])
    text, offsets = follow(client, job, -1)
    assert ("a", "h", [chunk_offset(1, 7)]) == (text[0], text[-1], offsets)


def test_stream_is_masked_and_requires_view_logs(fire, job):
    """A secret is masked even if it is split across two chunks.

    Visitors without `view_logs` do not see the panel.
    """
    emit(fire, job, "password=hun", "ter2 ok")
    seen = []
    for level in ("admin", {"read"}):
        with (
            closing(Dashboard(fire, auth=lambda _, level=level: level)) as dashboard,
            closing(Browser(dashboard)) as browser,
        ):
            seen.append(browser.get(f"/jobs/{job.id}").text)

    assert not any("hunter2" in page or "ter2 ok" in page for page in seen)
    assert ['id="stream"' in page for page in seen] == [True, False]

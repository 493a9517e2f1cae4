"""Tests of streams: chunks that a job emits while it runs, which are read by offset."""

from __future__ import annotations

import attrs
import pytest

from firelock.model.memo import Chunk, chunk_offset
from firelock.testing.conformance.flow_scene import FlowScene
from firelock.testing.conformance.scene import BASE, DAY, Running, deletes, retries, succeeds
from firelock.testing.conformance.storage.subject import StorageFixtures


class StreamTests(StorageFixtures):
    """Tests of `append_stream` and `read_stream`."""

    verbs = "append_stream read_stream"

    def test_stream_is_read_as_it_was_emitted(self, flow: FlowScene) -> None:
        """`read_stream` returns at most `limit` chunks after the given offset, ordered by offset.

        If this fails: a page that continues reading after a reload misses words, or shows them twice.
        """
        running = flow.run()
        fence = running.job.fence
        pieces = [f"word {number} é☃\n" for number in range(12)]
        flow.append(running, "out", *pieces[:5])
        flow.append(running, "out", *pieces[5:], first=5)

        read = flow.storage.read_stream

        expected = [Chunk("out", chunk_offset(fence, number), piece) for number, piece in enumerate(pieces)]
        assert expected == read(running.id, "out")
        assert expected[:3] == read(running.id, "out", limit=3)
        assert expected[3:8] == read(running.id, "out", after=expected[2].offset, limit=5)
        assert [] == read(running.id, "out", after=expected[-1].offset)
        assert {fence} == {chunk.run for chunk in expected}

    def test_streams_of_a_job_are_separate(self, flow: FlowScene) -> None:
        """Two streams of a job, and the streams of two jobs, are independent.

        If this fails: one user reads what a model has written for another.
        """
        one, other = flow.running(flow.begin(), *flow.add_many(2))
        session, fence = one.holder.session, one.job.fence
        mixed = [
            Chunk(name, chunk_offset(fence, number), f"{name} {number}")
            for number, name in enumerate(["out", "out:2", "OUT", "out", "é"])
        ]
        flow.storage.append_stream(one.id, mixed, session=session, fence=fence)
        flow.append(other, "out", "other")

        for name in ("out", "out:2", "OUT", "é"):
            assert [chunk for chunk in mixed if chunk.stream == name] == flow.storage.read_stream(
                one.id, name
            )
        assert ["other"] == [chunk.data for chunk in flow.storage.read_stream(other.id, "out")]
        assert [] == flow.storage.read_stream(one.id, "unknown")
        assert [] == flow.storage.read_stream(flow.new_id(), "out")

    def test_repeated_chunks_are_stored_once(self, flow: FlowScene) -> None:
        """Chunks that are sent again, for example after a lost reply, do not change the stored ones.

        If this fails: a reader sees a sentence twice, or a changed sentence.
        """
        running = flow.run()
        flow.append(running, "out", "a", "b")

        size = flow.append(running, "out", "changed", "c", first=1)

        assert ["a", "b", "c"] == [chunk.data for chunk in flow.storage.read_stream(running.id, "out")]
        assert 3 == size

    def test_append_stream_returns_the_size_of_the_largest_stream(self, flow: FlowScene) -> None:
        """`append_stream` returns the size of the largest of the named streams, in bytes of UTF-8.

        If this fails: a job writes without end, or is stopped too early.
        """
        running = flow.run()
        session, fence = running.holder.session, running.job.fence

        first = flow.append(running, "out", "é" * 100, "ab")
        small = flow.append(running, "small", "a")
        chunks = [
            Chunk(name, chunk_offset(fence, 10), data) for name, data in (("out", "☃"), ("small", "bc"))
        ]
        both = flow.storage.append_stream(running.id, chunks, session=session, fence=fence)

        assert (202, 1, 205) == (first, small, both)

    @pytest.mark.parametrize("how", ["stale", "another session", "ended", "deleted", "unknown"])
    def test_old_run_cannot_append_to_a_stream(self, flow: FlowScene, how: str) -> None:
        """A run that no longer holds its job stores no chunks; the result is None.

        If this fails: two runs write into one stream, and a reader sees both.
        """
        running = flow.run()
        flow.append(running, "out", "a")
        old = running
        match how:
            case "stale":
                flow.settle(retries(running))
                flow.run(running.holder, running.id)
            case "another session":
                old = attrs.evolve(running, holder=flow.begin("another"))
            case "ended":
                flow.settle(succeeds(running))
            case "deleted":
                flow.settle(deletes(running.id))
            case "unknown":
                old = Running(attrs.evolve(running.job, id=flow.new_id()), running.holder)

        assert None is flow.append(old, "out", "b", first=1)
        assert ["a"] == [chunk.data for chunk in flow.storage.read_stream(running.id, "out")]

    def test_chunks_of_a_later_run_follow_earlier_ones(self, flow: FlowScene) -> None:
        """The chunks of a later run come after those of all earlier runs, and identify their run.

        If this fails: a reader cannot distinguish a repeated beginning from a continuation.
        """
        running = flow.run()
        flow.append(running, "out", "a", "b")
        flow.settle(retries(running))
        again = flow.run(flow.begin("b"), running.id)

        flow.append(again, "out", "A")

        chunks = flow.storage.read_stream(running.id, "out")
        assert ["a", "b", "A"] == [chunk.data for chunk in chunks]
        assert [running.job.fence] * 2 + [again.job.fence] == [chunk.run for chunk in chunks]

    def test_stream_is_kept_until_its_job_is_pruned(self, flow: FlowScene) -> None:
        """A stream can be read after its job has ended, until the job is pruned.

        If this fails: an answer is deleted when it is complete, or kept forever.
        """
        running = flow.run()
        flow.append(running, "out", "a")
        flow.settle(succeeds(running, expires_at=BASE - DAY))
        assert ["a"] == [chunk.data for chunk in flow.storage.read_stream(running.id, "out")]

        assert 1 == flow.prune()

        assert [] == flow.storage.read_stream(running.id, "out")

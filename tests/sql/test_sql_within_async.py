"""A job enqueued within an AsyncSession exists if and only if the session commits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from firelock import Firelock, JobNotCommitted, State


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


@pytest.mark.parametrize("is_committed", [True, False])
def test_jobs_follow_an_async_session(tmp_path: Path, *, is_committed: bool) -> None:
    """Before the commit the handle refuses; afterwards job and continuation are there, or neither is."""
    path = tmp_path / "jobs.db"
    fire = Firelock(f"sqlite:///{path}")
    task = fire.task(name="double")(double)
    fire.storage.migrate()

    async def use() -> list[State]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        async with AsyncSession(engine) as session:
            job = await task.using(within=session).aenqueue(1)
            child = await job.athen(task.using(within=session), 2)
            with pytest.raises(JobNotCommitted):
                await job.arefresh()
            await (session.commit() if is_committed else session.rollback())
        await engine.dispose()
        return [one.state for one in (await fire.jobs.afind()).jobs if one in {job, child}]

    found = asyncio.run(use())

    assert sorted([State.ENQUEUED, State.AWAITING] if is_committed else []) == sorted(found)
    fire.close()

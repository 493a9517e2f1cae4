"""F36 to F38: failures that only affect a file."""

from __future__ import annotations

from tests.faults.checker import quantiles
from tests.faults.program import run_program
from tests.faults.scenarios.base import Size, scenario, stage

_MIB = 1024 * 1024
_LOG_LIMIT = 16 * _MIB  # maximum size of the write-ahead log when no reader keeps it


@scenario("kill-writers", "F36", full=Size(0, 1_000), short=Size(0, 10), schemes=["sqlite"])
def kill_writers(place, size):
    """`kill -9` ends a process during a write. The file is intact each time; no acknowledged data is lost."""
    figures = run_program(place, "sqlite_writers", "kill", size.rounds, 0)
    assert figures["damaged"] == 0, figures
    assert figures["lost"] == [], figures
    return [
        f"kills {size.rounds}, {figures['within']} of them within a write; files damaged 0",
        f"jobs acknowledged {figures['acknowledged']}, inserts and ends lost 0",
    ]


@scenario("busy-file", "F37", full=Size(16, 30), short=Size(6, 3), schemes=["sqlite"])
def busy_file(place, size):
    """Clients and a server share a file with a long reader and a program that locks it a third of the time.

    The scenario runs `jobs` clients for `rounds` seconds.
    """
    with stage(place) as on:
        (server,) = on.serve()
        figures = run_program(place, "sqlite_writers", "busy", size.jobs, size.rounds)
        on.finish()
        log = server.log.read_text()
    assert figures["errors"] == [], figures["errors"][:3]
    assert "unavailable" not in log, log[-2_000:]
    assert figures["after"] <= _LOG_LIMIT, figures["after"]
    p50, p99, most = quantiles(figures["free"])
    held = max(figures["held"])
    jobs = len(figures["free"]) + len(figures["held"])
    sizes = [f"{figures[name] / _MIB:.1f}" for name in ("peak", "at_end", "after")]
    return [
        f"{size.jobs} clients, {size.rounds} s: enqueued {jobs}, errors 0",
        f"enqueue p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.0f} ms, max {most * 1e3:.0f} ms",
        f"while another program locked the file {size.rounds / 3:.1f} s: max {held:.2f} s",
        f"MiB of log: at most {sizes[0]}, when the reader ended {sizes[1]}, a second later {sizes[2]}",
    ]


@scenario(
    "damaged-log", "F38", full=Size(60, 1_200, seed=38), short=Size(16, 24, seed=38), schemes=["sqlite"]
)
def damaged_log(place, size):
    """The write-ahead log of a copy is cut, damaged or removed. Commits before the damage are kept.

    There are `rounds` copies of logs of about `jobs` commits, selected by the seed. Then a server uses one of
    the copies.
    """
    figures = run_program(place, "damaged_logs", size.rounds, size.jobs, size.seed)
    assert figures["wrong"] == [], (size.seed, len(figures["wrong"]), figures["wrong"][:3])
    with stage(place) as on:
        on.acknowledged.update(figures["left"])
        on.server()
        report = on.finish()
    in_file = figures["in_file"]
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(figures["by_kind"].items()))
    found = ", ".join(f"{outcome} {number}" for outcome, number in sorted(in_file.items()))
    in_both = sum(in_file.values())
    return [
        f"seed {size.seed}: copies {size.rounds} ({kinds})",
        f"their logs had {figures['commits']} commits; lost after the damage: {figures['lost']}",
        f"copies {size.rounds - in_both}, jobs {figures['jobs']}: all in the state before the first damage",
        "integrity_check ok in all; incomplete jobs 0; usable: all",
        f"copies with damage in pages that are also in the file {in_both}: {found or 'none'}",
        f"a server on one copy: jobs {report.jobs}, lost 0, stuck 0",
    ]

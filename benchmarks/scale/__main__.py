"""The service's tables with millions of jobs: `python -m benchmarks.scale [fill] [lists] [workers] [delete] [migrate]`.

workers: claims, reports and finishes of 100, 300 and 1,000 workers. lists: every filter, sweeps, /metrics. delete: a
tenant's year, beside who writes. migrate: down to 0014 and up again, beside who writes. Postgres is the embedded one,
on a folder that is removed at the end, or kept where --folder names it. The load generator shares the cores with what
it measures. The exit code is 1 when a bound was missed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from benchmarks.scale import tables, workers
from benchmarks.scale.filling import fill
from benchmarks.scale.servers import postgres, superuser_engine
from tests.support.pgbouncer import PGBOUNCER, pgbouncer
from udig_recon.worker.database.roles import OWNER, with_role
from udig_recon.worker.standalone.servers import EmbeddedServers

Told = tuple[list[str], list[str]]
"""Lines of Markdown, and which bounds were missed."""
MOST_SECONDS = {"claim": 0.1, "list": 0.1, "wait": 1.0}
SERVER_CONNECTIONS = 40
OLDEST = "0014"


def measure_workers(servers: EmbeddedServers, counts: list[int], seconds: float) -> Told:
    """Latencies by number of workers, behind PgBouncer in transaction mode where it is installed."""
    lines = ["| workers | operation | a second | median ms | p99 ms |", "|---|---|---|---|---|"]
    of_server = [
        "| workers | Postgres cores | generator cores | commits a second | WAL MB/s | slices HOT % | sweep ms |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = []
    engine = superuser_engine(servers.database_url)
    for count in counts:
        with ExitStack() as stack:
            url = servers.database_url
            if PGBOUNCER is not None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = stack.enter_context(pgbouncer(url, folder, SERVER_CONNECTIONS))
            sweeps: list[float] = []
            stack.enter_context(workers.sweeping(servers.database_url, sweeps))
            before, cpu, own = workers.counters(engine), workers.cpu_seconds(servers.data), sum(os.times()[:4])
            began = time.monotonic()
            found = workers.work(url, count, seconds)
            elapsed = time.monotonic() - began
            cpu = (workers.cpu_seconds(servers.data) - cpu) / elapsed
            own = (sum(os.times()[:4]) - own) / elapsed
            after = workers.counters(engine)
        counted = seconds * (1 - workers.SETTLING)
        for name, times in sorted(found.items()):
            p99 = times[min(len(times) - 1, int(0.99 * len(times)))]
            lines.append(
                f"| {count} | {name} | {len(times) / counted:.1f} | {times[len(times) // 2] * 1000:.1f}"
                f" | {p99 * 1000:.1f} |"
            )
            missed += [f"claims of {count} workers"] if name == "claim" and p99 > MOST_SECONDS["claim"] else []
        delta = {name: after[name] - before[name] for name in after}
        hot = 100 * delta["hot"] / max(delta["updated"], 1)
        sweeps.sort()
        of_server.append(
            f"| {count} | {cpu:.2f} | {own:.2f} | {delta['commits'] / elapsed:.0f} | {delta['wal'] / elapsed / 1e6:.2f}"
            f" | {hot:.0f} | {sweeps[len(sweeps) // 2] * 1000 if sweeps else 0:.0f} |"
        )
    engine.dispose()
    return [*lines, "", *of_server], missed


def measure_lists(servers: EmbeddedServers) -> Told:
    sessions = tables.sessions_at(servers.database_url)
    lines = ["| list of jobs | items | median ms | most ms | of it Postgres ms |", "|---|---|---|---|---|"]
    missed = []
    for each in tables.lists(sessions):
        times = " | ".join(f"{1000 * seconds:.1f}" for seconds in (each.median, each.most, each.postgres))
        lines.append(f"| {each.label} | {each.items} | {times} |")
        missed += [each.label] if each.median > MOST_SECONDS["list"] else []
    lines += ["", "| for all workers | median ms | most ms |", "|---|---|---|"]
    lines += [f"| {name} | {median * 1e3:.1f} | {most * 1e3:.1f} |" for name, median, most in tables.sweeps(sessions)]
    return lines, missed


def measure_delete(servers: EmbeddedServers, seconds: float) -> Told:
    sessions = tables.sessions_at(servers.database_url)
    engine = superuser_engine(servers.database_url)
    with tables.writing(engine) as waits:
        count, times = tables.delete(sessions, seconds)
    lines = ["| deleted jobs | a second | transaction: median ms | most ms |", "|---|---|---|---|"]
    lines.append(
        f"| {count} | {count / sum(times):.0f} | {times[len(times) // 2] * 1000:.0f} | {times[-1] * 1000:.0f} |"
    )
    lines += ["", "| meanwhile | times | longest wait ms |", "|---|---|---|"]
    lines += [f"| {name} | {len(each)} | {max(each) * 1000:.0f} |" for name, each in waits.items()]
    engine.dispose()
    return lines, [name for name, each in waits.items() if max(each) > MOST_SECONDS["wait"]]


def measure_migrations(servers: EmbeddedServers) -> Told:
    lines, missed = ["| step, and who writes meanwhile | s | times | longest wait ms |", "|---|---|---|---|"], []
    for name, seconds, times, longest in tables.migrations(with_role(servers.database_url, OWNER), OLDEST):
        lines.append(f"| {name} | {seconds:.0f} | {times} | {longest * 1000:.0f} |")
        missed += [name] if longest > MOST_SECONDS["wait"] else []
    return lines, missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["fill", "lists", "workers", "delete", "migrate", []])
    parser.add_argument("--jobs", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="of the data; one that is filled already is used as it is")
    parser.add_argument("--workers", type=int, nargs="*", default=[100, 300, 1000])
    parser.add_argument("--seconds", type=float, default=90.0)
    asked = parser.parse_args()
    failed = False
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="udig-scale-")))
        folder.mkdir(exist_ok=True)
        servers = stack.enter_context(postgres(folder))
        parts: dict[str, Callable[[], Told]] = {
            "fill": lambda: _filled(servers, asked.jobs),
            "lists": lambda: measure_lists(servers),
            "workers": lambda: measure_workers(servers, asked.workers, asked.seconds),
            "delete": lambda: measure_delete(servers, asked.seconds),
            "migrate": lambda: measure_migrations(servers),
        }
        for name in asked.parts or parts:
            load = os.getloadavg()[0]
            lines, missed = parts[name]()
            print(f"\n### {name}\n\n" + "\n".join(lines))
            print(f"\nload of the machine before it began: {load:.1f}")
            print(f"MISSED: {'; '.join(missed)}" if missed else "all is within its bounds", flush=True)
            failed = failed or bool(missed)
    return int(failed)


def _filled(servers: EmbeddedServers, jobs: int) -> Told:
    lines = fill(servers.database_url, jobs)
    engine = superuser_engine(servers.database_url)
    sizes = text(
        "SELECT relname, n_live_tup, pg_table_size(relid) / 1e9, pg_indexes_size(relid) / 1e9 FROM pg_stat_user_tables"
        " WHERE n_live_tup > 10000 ORDER BY 3 DESC"
    )
    lines += ["", "| table | rows | GB | indexes GB |", "|---|---|---|---|"]
    with engine.connect() as connection:
        lines += [
            f"| {name} | {rows} | {size:.2f} | {own:.2f} |" for name, rows, size, own in connection.execute(sizes)
        ]
    engine.dispose()
    return lines, []


if __name__ == "__main__":
    sys.exit(main())

"""The verdict as Markdown tables."""

from collections.abc import Iterable, Sequence

from benchmarks.chaos.clients import Notes
from benchmarks.chaos.faults import ALL_FAULTS
from benchmarks.chaos.stack import Stack
from benchmarks.chaos.verdict import Check, Recovery
from benchmarks.chaos.wire import WEIGHTY

EVENTS = {
    "slice.resumed": "slices resumed from a checkpoint",
    "slice.lease_lost": "stale writers fenced off",
    "slice.released": "slices given back",
    "checkpoint.saved": "checkpoints kept",
    "checkpoint.write_failed": "checkpoints left out, the disk being full",
    "database.unavailable": "times that Postgres was away",
}


def text(stack: Stack, setting: str, notes: Notes, recovered: Sequence[Recovery], found: Sequence[Check]) -> str:
    """All tables of a run."""
    longest = max((each.until_ready for each in recovered), default=0.0)
    claimed = max((each.until_claimed or 0.0 for each in recovered), default=0.0)
    verdict = "nothing lost" if all(check.holds for check in found) else "FAILED"
    return "\n".join(
        [
            setting,
            "",
            *table(("fault", "struck", "lasted s", "until ready s", "until claimed again s"), map(_fault, recovered)),
            "",
            f"Longest from a fault to recovery: {longest:.1f} s until all API processes are ready, {claimed:.1f} s "
            "until a slice is claimed again (both from the strike, however long the fault lasted).",
            "",
            *table(("seen", "times"), _seen(stack, notes)),
            "",
            *table(
                ("check", "found", "wanted", ""),
                ((each.what, each.found, each.wanted, "ok" if each.holds else "FAILED") for each in found),
            ),
            "",
            f"Verdict: {verdict}",
            "",
        ]
    )


def _fault(each: Recovery) -> tuple[str, ...]:
    claimed = "" if each.until_claimed is None else f"{each.until_claimed:.1f}"
    what = str(ALL_FAULTS[each.name].__doc__).rstrip(".")
    return what, f"{each.times}", f"{each.longest_held:.1f}", f"{each.until_ready:.1f}", claimed


def _seen(stack: Stack, notes: Notes) -> Iterable[tuple[str, ...]]:
    events = stack.events()
    yield from ((what, f"{events[event]}") for event, what in EVENTS.items())
    removed = sum(int(str(line["removed"])) for line in stack.log_lines() if line.get("event") == "cleanup.finished")
    yield "leftovers of killed processes removed", f"{removed}"
    yield "scans refused with 507 while the disk was full", f"{stack.uploads[507]}"
    names = ("of results", "of snapshots", "of jobs filed")
    yield from (
        (f"commits {name} whose answer was lost", f"{stack.wire.cut[mark]}")
        for name, mark in zip(names, WEIGHTY, strict=True)
    )
    yield from ((what, f"{count}") for what, count in sorted(notes.counts.items()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]

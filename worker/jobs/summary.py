"""Summary of a job: what is known of it from its slices."""

from collections.abc import Sequence


def mean_metrics(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each metric over the slices; None where a slice lacks it."""
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        known = [value for row in rows if (value := row.get(name)) is not None]
        means[name] = sum(known) / len(known) if len(known) == len(rows) else None
    return means

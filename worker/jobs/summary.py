"""What is told of a job from what is known of its slices."""

from collections.abc import Sequence


def mean_metrics(rows: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each metric over the slices; None where a slice lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {
        name: None if any(value is None for value in column) else sum(filter(None, column)) / len(column)
        for name, column in columns.items()
    }

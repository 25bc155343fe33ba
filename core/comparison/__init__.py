"""Comparison of methods on scans: plan, runs, tables, ranking, figures, report."""

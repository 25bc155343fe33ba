"""Comparison of methods on scans with references: plan, runs, tables, ranking, figures, report."""

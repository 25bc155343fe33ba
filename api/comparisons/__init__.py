"""Comparisons over HTTP: methods held against each other on scans with references, by ordinary jobs."""

"""Comparisons over HTTP: methods held against each other on scans, by ordinary jobs."""

"""Stored bytes: scans, job files, their digests, and the removal of files that no row refers to."""

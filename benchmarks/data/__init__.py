"""Scans and phantoms for benchmarks and tests."""

"""Scans that benchmarks and tests make."""

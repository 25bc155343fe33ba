"""Spoilt files of every format that the service reads, posted to a real service: `python -m benchmarks.campaign`."""

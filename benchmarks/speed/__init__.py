"""Seconds and memory of the engine, and of the job service around it."""

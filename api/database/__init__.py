"""Reads of the database in the event loop, and notifications of changes."""

"""The door: HTTP in, HTTP out. Never imports torch."""

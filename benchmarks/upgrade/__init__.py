"""Upgrade and downgrade of a service in use."""

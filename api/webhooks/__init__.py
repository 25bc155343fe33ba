"""Webhooks: delivery to the addresses of clients."""

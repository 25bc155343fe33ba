"""The whole service on one machine: servers, API and workers as supervised processes."""

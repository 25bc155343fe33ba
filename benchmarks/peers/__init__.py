"""Peers: other reconstruction software (BART, ASTRA) run on the same scans."""

"""Destinations: what a tenant may name, and the sending of results to archives by STOW-RS and C-STORE."""

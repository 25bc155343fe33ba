"""Resumable uploads: the tus protocol, version 1.0, at the endpoints below /v1/uploads."""

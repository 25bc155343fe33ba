"""Scans: upload, and the endpoints below /v1/scans."""

"""Jobs: the endpoints below /v1/jobs, their events and results."""

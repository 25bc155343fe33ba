"""The job: what it is, where its bytes lie, how it is queued and how it is run."""

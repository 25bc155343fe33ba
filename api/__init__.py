"""HTTP API (FastAPI): scans, jobs, comparisons, keys, webhooks. It never imports torch."""

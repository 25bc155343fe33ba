"""The service's tables with millions of jobs, and a thousand workers on them."""

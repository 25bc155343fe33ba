"""Jobs: submission, scheduling, leases, the queue, retention, webhooks."""

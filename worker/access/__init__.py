"""Access: API keys, tenants, quotas, the audit log."""

"""Authentication, and the endpoints for API keys and tenants."""

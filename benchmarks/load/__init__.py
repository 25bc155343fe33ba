"""The service under load: many clients, many jobs, slow clients."""

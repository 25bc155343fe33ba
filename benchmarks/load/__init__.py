"""The service under load: many clients, many jobs, slow clients; against bounds in each module."""

"""The pages that people see in a browser: templates, static files, routes. They read and write by the API below /v1."""

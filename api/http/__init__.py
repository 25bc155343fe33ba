"""HTTP: the server, middleware, limits, problem documents, conditional and range requests."""

"""A sandboxed process reads files from outside: it may crash, hang or grow without harm to the service."""

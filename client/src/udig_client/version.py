"""Version of this client, which is that of the service that it was tested with."""

__version__ = "0.4.0"

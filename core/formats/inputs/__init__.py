"""Input formats: one module for each file format in which a scan is read."""

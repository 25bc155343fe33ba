"""Methods held against each other on scans with references: what was found, as tables, ranking and figures."""

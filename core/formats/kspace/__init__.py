"""MRI scans: which array of a file means what, and whether its content is k-space."""

"""Many scans by many methods on one machine: which files are scans, the volumes to make, a summary of them."""

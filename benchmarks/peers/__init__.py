"""Other reconstruction software, run on the same scans."""

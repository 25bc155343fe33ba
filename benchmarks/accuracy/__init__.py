"""How close reconstructions are to references, against peers."""

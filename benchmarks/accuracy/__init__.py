"""Accuracy of reconstructions against references, peers and stated targets."""

"""The MRD stream: a TCP door for scanners, in a process of its own. One connection is one scan and one job."""

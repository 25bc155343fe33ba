"""Readouts of a scanner as it measured them, line by line, and the k-space that they are sorted to.

Nothing here knows a file: MRD files, streams of a scanner and Siemens twix files all give `readouts.Readouts`.
"""

"""Files on disk that are written whole or not at all, and the digests that tell whether their bytes are the same."""

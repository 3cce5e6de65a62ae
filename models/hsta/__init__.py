"""HSTA (arXiv 2405.03202): recognition from clips."""

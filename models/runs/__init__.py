"""Runs: what one is made of, on disk, side by side."""

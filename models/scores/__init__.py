"""Scores over people: intervals, spotting counts, baselines."""

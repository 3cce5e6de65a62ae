"""Layers that more than one network may use."""

"""Datasets, faces, flow, apex frames, motion, and their stores (no torch, no Prefect)."""

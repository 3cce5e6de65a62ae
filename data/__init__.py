"""Datasets, faces, flow, apex frames, motion features and the stores they live in (no torch, no Prefect)."""

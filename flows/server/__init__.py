"""Prefect's own parts on this machine: server, worker, deployments, and their settings."""

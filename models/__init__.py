"""The networks, their training and their scores (torch, no Prefect)."""

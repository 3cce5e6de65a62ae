"""The networks, their training and their scores (torch, no Prefect)."""

from models.registry import create_model, list_models, load_authors_checkpoint

__all__ = ["create_model", "list_models", "load_authors_checkpoint"]

"""Jobs done by Dask workers, on this machine or others. All that is bound to Dask is in this room.

`carrier` hands jobs over, `worker` does them, `site` is what both must agree on, `slurm` starts
workers as batch jobs. Needs the extra `cluster`.
"""

from data.errors import MissingExtraError


def require_distributed(who: str) -> None:
    """Raises MissingExtraError without the extra."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            who,
            expected="the package distributed",
            got="none",
            todo='Install the extra: pip install -c constraints.txt -e ".[cluster]".',
        ) from error

"""Jobs done by Dask workers, on this machine or others. All that is bound to Dask is in this room.

`carrier` hands jobs over, `worker` does them, `site` is what both must agree on, `slurm` starts
workers as batch jobs. Needs the extra `cluster`.
"""

"""What a run is from outside: planned, started, recorded in Prefect, named, pruned."""

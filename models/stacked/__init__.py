"""Several folds' networks as one program: every tensor gains a leading fold axis."""

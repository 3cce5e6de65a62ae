"""Stage ingest: what owners ship becomes tables; and the check of a dataset folder."""

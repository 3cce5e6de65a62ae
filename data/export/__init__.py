"""Stores to files that others read: ordinary ones, and the forms in which data are exchanged."""

"""The commands of the command line, one file each; `flows.cli` puts them together."""

"""When things happen: one flow per stage, the parent flow, recipes, the command line."""

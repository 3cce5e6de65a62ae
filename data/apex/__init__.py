"""Stage apex: the apex frame of every event, labelled or spotted."""

"""Stage align: faces cropped and registered, frame by frame."""

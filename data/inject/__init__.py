"""Known micro-expressions in a user's own recordings: where they fit, planting, measuring them."""

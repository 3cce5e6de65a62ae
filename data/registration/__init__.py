"""Stage registration: every event's frames brought onto its own onset."""

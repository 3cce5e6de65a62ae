"""Stage flow: TV-L1 fields and strain between chosen frames of every event."""

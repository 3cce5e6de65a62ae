"""Stage motion: ME-TST's motion series of facial regions, window by window."""

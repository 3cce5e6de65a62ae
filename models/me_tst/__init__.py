"""ME-TST (arXiv 2409.09707) and ME-TST+ (2508.08082): spotting and recognition."""

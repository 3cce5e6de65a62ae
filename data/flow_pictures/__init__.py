"""Flow pictures (u, v and strain of onset→apex as one image) that somebody else computed."""

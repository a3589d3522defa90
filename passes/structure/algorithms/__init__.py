"""Arrays in, arrays out: what is known of a layer, and what stands in for it."""

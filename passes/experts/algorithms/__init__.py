"""Which experts stay, how they are merged, which of their units go: arrays in, arrays out."""

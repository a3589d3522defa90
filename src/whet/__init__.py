"""whet: the model-compression compiler that shows its work."""

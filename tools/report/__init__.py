"""The page of a compile, rendered from its ``report.json`` alone: one file, no network."""

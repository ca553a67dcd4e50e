"""Everything about keeping and finding: the store, and the indexes derived from it."""

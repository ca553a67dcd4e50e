"""The store, and the search indexes derived from it."""

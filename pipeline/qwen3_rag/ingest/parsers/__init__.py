"""Parsers of files that may be hostile; they run in a parser process only (see `child`)."""

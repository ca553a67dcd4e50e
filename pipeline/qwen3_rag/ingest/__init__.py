"""From files to documents to passages with vectors."""

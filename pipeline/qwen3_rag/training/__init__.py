"""The training recipes of the models shipped with the package."""

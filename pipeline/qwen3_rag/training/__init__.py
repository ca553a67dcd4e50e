"""How the models shipped with the package were trained."""

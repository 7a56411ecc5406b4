"""Against software nobody here wrote."""

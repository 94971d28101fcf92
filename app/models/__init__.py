"""Models by name: the base models that the operator allows, and each project's tuned ones."""

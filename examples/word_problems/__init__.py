"""Word problems with worked solutions, generated from seeds, and responses that a small model wrote to them."""

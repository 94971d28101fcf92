"""The trainer's benchmark: the product's steps, its peers' and the machine's limit, measured in one run."""

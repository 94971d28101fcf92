"""Fine-tuning jobs: the routes, and the protocol by which exactly one result becomes visible."""

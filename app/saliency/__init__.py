"""Previews of saliency: rows in, token records out, nothing trained. Postgres holds the queue, workers answer."""

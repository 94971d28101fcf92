"""Saliency previews on a worker: one warm process that answers them, and the claims of what it works on."""

"""Saliency without training: a process that keeps a base model loaded and answers one preview after the other."""

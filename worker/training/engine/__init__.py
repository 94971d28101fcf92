"""The training engine: packing, forward passes, head, optimizer steps, checkpoints. Knows no method by name."""

"""The catalogue of training methods."""

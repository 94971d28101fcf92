"""The registry of training methods: one line each."""

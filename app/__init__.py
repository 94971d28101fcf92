"""The HTTP service: accepts datasets and job specs, stores them, hands out results. Never imports torch."""

"""The worker: claims jobs, supervises the trainer child process, publishes results. The parent never imports torch."""

"""Where an environment's code runs: in the event loop, in threads, or in worker processes."""

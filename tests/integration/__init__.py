"""Several parts at work, over real ports and in real processes."""

"""Where a run's numbers go: files, W&B, the terminal, and a report."""

"""Our own code that runs inside sandboxes: standard library only, sent there as text."""

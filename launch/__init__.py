"""The composition root: one entry point per command."""

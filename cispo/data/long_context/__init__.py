"""Tasks whose answer lies somewhere in a long prompt: made on the fly, or from public files."""

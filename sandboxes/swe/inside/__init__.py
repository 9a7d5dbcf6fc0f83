"""Programs that run inside a sandbox; each is sent there as source and imports nothing of ours."""

"""Environments of software-engineering tasks: a repository at a commit, and what its tests need."""

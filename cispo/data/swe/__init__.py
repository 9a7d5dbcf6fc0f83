"""Software-engineering tasks: a repository with a fault, its issue, and hidden tests."""

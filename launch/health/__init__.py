"""What `python -m launch.doctor` looks at, one kind of thing a file."""

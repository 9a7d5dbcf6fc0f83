"""What runs in the grading jail; each file is sent there as source and imports nothing of ours."""

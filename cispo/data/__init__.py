"""Tasks: generated families, files and hub data sets, mixed into one resumable sequence."""

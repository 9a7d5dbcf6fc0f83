"""Finds tasks that should not be trained on: repeated, known from evaluations, or of a bad form."""

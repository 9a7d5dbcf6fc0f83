"""Grades patches of repositories by hidden tests, in the presence of code that wants to cheat."""

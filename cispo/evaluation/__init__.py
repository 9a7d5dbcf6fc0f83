"""Measures a finished policy on named sets of tasks, with intervals, and compares measurements."""

"""Verifiers of SynLogic-style puzzles, written anew from the puzzles' rules.

They serve the tasks whose published verifiers hand a model's text to `eval`, or accept wrong
answers (arXiv 2505.19641; game of 24 there compares a result with itself).
"""

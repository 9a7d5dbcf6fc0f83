"""Rewards: what a rollout is worth."""

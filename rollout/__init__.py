"""Rollouts: how trajectories are sampled from the behaviour policy."""

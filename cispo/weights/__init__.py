"""How the learner's weights reach the rollout engine: in checked buckets, under a version."""

"""The policy pi: models, their log-probabilities, their files and their chat form."""

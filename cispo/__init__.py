"""The core of the framework: nouns, the loop, objectives, the policy and the learner."""

"""The learner: owner of the policy pi and its optimizer."""

"""CISPO, DAPO and GRPO at equal settings on tasks that take seconds: speed, stability, an alarm."""

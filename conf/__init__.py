"""The Hydra configuration package."""

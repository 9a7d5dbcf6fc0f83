"""Samples as tensors: packed micro-batches and the share of each token in the loss."""

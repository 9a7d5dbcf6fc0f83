"""Engines that sample tokens, one file each."""

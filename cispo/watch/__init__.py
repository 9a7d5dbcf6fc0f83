"""A local web page on a run: curves, lanes, and single rollouts, while it goes on or afterwards."""

"""Measurements, as ratios to the same thing written by hand, in one run."""

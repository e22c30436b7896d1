"""Metrics and intervals, from tables alone: ranking, free generation, popularity bias, semantic over-selection."""

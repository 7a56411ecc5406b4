"""Measurements, side by side with other implementations. Run ``python -m benchmarks``."""

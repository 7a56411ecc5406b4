"""Shared by all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Machines differ, and CI's are slow: a property fails for what it says, not for its speed.
settings.register_profile(
    "moqtrio", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("moqtrio")

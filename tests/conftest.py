"""Settings for every test: property tests are deterministic and never fail for being slow."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "whet", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("whet")

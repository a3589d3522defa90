"""Settings for every test: property tests are deterministic and never fail for being slow; no pages are drawn."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "whet", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("whet")


@pytest.fixture(scope="session", autouse=True)
def _no_pages() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Compile without drawing report.html, which takes longer than many a compile; tests of the page ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("whet.compiler.add_page", lambda *_: None)
        yield

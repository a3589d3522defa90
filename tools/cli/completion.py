"""What a shell is offered for the values of options, once ``whet --install-completion`` has been run."""

__all__ = ["devices", "metrics", "passes", "recipes", "targets"]


def passes(incomplete: str) -> list[str]:
    """Return the names of passes that begin so."""
    from whet.passes.registry import all_passes

    return [name for name in all_passes() if name.startswith(incomplete)]


def recipes(incomplete: str) -> list[str]:
    """Return recipes; behind a comma, one more pass."""
    before, comma, last = incomplete.rpartition(",")
    known = [*(() if comma else ("auto", "exact")), *passes(last)]
    return [f"{before}{comma}{name}" for name in known if name.startswith(last)]


def targets(incomplete: str) -> list[str]:
    """Return the names of targets that begin so."""
    from whet.backends.base import targets as known

    return [name for name in (*known(), "auto") if name.startswith(incomplete)]


def devices(incomplete: str) -> list[str]:
    """Return the names of devices that begin so."""
    from whet.backends.device import DEVICES

    return [name for name in ("host", *DEVICES) if name.startswith(incomplete)]


def metrics(incomplete: str) -> list[str]:
    """Return the metrics that take their data from a file."""
    from whet import evaluate

    names = [name.replace("_", "-") for name in evaluate.__all__ if name != "find_metric"]
    return [f"{name}{{data=" for name in names if name.startswith(incomplete)]

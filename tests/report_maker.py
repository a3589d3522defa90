"""Reports made up for the page's tests: as large, and with names as nasty, as one wishes."""

import random

from whet.analysis.machine_peak import Peak
from whet.analysis.output_damage import OutputDamage
from whet.analysis.weight_histograms import Histogram
from whet.backends.measure import Timing
from whet.backends.operator_times import OperatorTime
from whet.ir.sites import Enclosed
from whet.layers import list_layers
from whet.passes.attention.break_even import Payoff
from whet.passes.base import Coverage, Damage, Failure, Spared, Tuning
from whet.passes.pipeline import Step
from whet.report import Agreement, Cost, Limits, Profile, Provenance, Report
from whet.solve.drop_interval import Interval

NASTY = "</script><script>alert('x')</script> & \"$x^2$\" {{ 7 * 7 }}"
"""A layer's name that would break out of a page that trusted it."""


def make_report(layers: int = 40, first: str = "layer0", seed: int = 0) -> Report:
    """Return a report with everything in it, of so many layers; the first one is called ``first``."""
    import onnx_ir

    rng = random.Random(seed)
    sites = [first, *(f"block{k // 8}/layer{k}/MatMul" for k in range(1, layers))]
    report = Report(
        origin="made up", target="onnxruntime", recipe="auto", steps=_steps(sites, rng),
        before=Cost(4 * layers, 1000 * layers, 4000 * layers, Timing(5.0, 4.9, 5.2, 7), 10**8),
        after=Cost(7 * layers, 1000 * layers, 1000 * layers, Timing(2.0, 1.9, 2.2, 7), 8 * 10**7),
        agreements=[Agreement("y", {"batch": 1}, 0.01, 0.999, 1e-5)],
        fusions={"com.microsoft.FusedMatMul": 2}, notes=["a note"], versions={"whet": "0"},
        metric=(0.9, 0.89), interval=Interval(0.01, -0.01, 0.02, "exact"), search=_search(sites, rng),
        kernels={"work": {"float": 1.0}}, enclosed=[Enclosed("Loop l", "body", ("MatMul m",), 64)],
        seconds=12.0, histograms=[Histogram(s, -1.0, 1.0, (1,) * 64, (2,) * 64, 16) for s in sites[:8]],
        graph=_graph(sites, rng), profile=_profile(sites, rng),
        limits=Limits(0.01, 10**6, None, ("size is 2 bytes, the budget 1",)),
        contest={"chosen": "onnxruntime", "why": "the only one left", "refused": {"other": "not here"},
                 "results": [{"target": "onnxruntime", "error": 0.0, "metric": None, "source": None,
                              "missed": ["size"], "bytes": 9,
                              "times": [{"median": 2.0, "low": 1.9, "high": 2.2, "runs": 7}]}]},
        provenance=Provenance("whet compile m -o out", 0, "m.onnx", "0" * 64,
                              {"model.onnx": {"bytes": 9, "sha256": "1" * 64}}),
    )  # fmt: skip
    empty = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10)
    report.layers = list_layers(empty, report.steps, report.advice, report.search)
    return report


def _steps(sites: list[str], rng: random.Random) -> list[Step]:
    damage = [
        Damage(s, rng.choice(["int8 x uint8", "4 bits", "2 bits, lean"]), rng.random() / 10, 4000,
               rng.randrange(200, 2000), rng.random(), rng.random(), "held-out data", rng.random() / 1e3, 0.5, 4)
        for s in sites
    ]  # fmt: skip
    lossy = Coverage(
        len(sites), len(sites), len(sites), max_error=0.1, damage=damage, proofs=Coverage().proofs
    )
    lossy.spared.append(Spared(sites[-1], 0.1, 0.01, 1.0, 0.5))
    lossy.failures.append(Failure(sites[0], "differs", 1.0, "reproducers/x"))
    curve = ((0, 0.5), (80, 0.2))
    lossy.tunings.append(Tuning(100, 100, 80, 2.0, "steps", 5000, curve, before=0.5, after=0.2))
    lossy.proofs["calibration"] = len(sites)
    other = Coverage(len(sites), len(sites), 0)
    other.declined = {
        s: f"0.{rng.randrange(999):03} ms with the bias, 0.{rng.randrange(999):03} without"
        for s in sites
    }
    other.near_misses = {sites[0]: "stopped at Add"}
    other.break_even = {sites[0]: [Payoff(n, 8, n / 9, n / 10, "a", "b", 4 * n) for n in (64, 512)]}
    other.spectra = {sites[0]: (1.0, 0.2, 0.01, 1e-4, 0.0)}
    moved = (OutputDamage("y", 0.01, 0.999, 64),)
    return [
        Step("apply-plan", "lossy", "Apply.", lossy, 1.0, 1, 4000, 1000, 4, 7, outputs=moved, metric=(0.9, 0.89)),
        Step("factor-bias", "rounding", "Factor.", other, 1.0, 1, 1000, 1000, 7, 7),
    ]  # fmt: skip


def _search(sites: list[str], rng: random.Random) -> dict[str, object]:
    def numbers() -> dict[str, float]:
        return {"bytes": rng.randrange(10**5, 10**6), "ms": 1 + rng.random(), "loss": rng.random() + 1e-6,
                "metric": 0.8 + rng.random() / 10}  # fmt: skip

    trials = [
        {"why": "random" if k < 16 else "solved", "predicted": numbers(), "measured": numbers(), "drop": 0.01,
         "standard_error": 0.001, "on_front": k % 3 == 0, "plan": [rng.randrange(3) for _ in sites]}
        for k in range(60)
    ]  # fmt: skip
    decisions = [
        {"site": s, "taken": "4 bits", "loss": 1e-4, "bytes": 500, "ms": 0.1,
         "because": "quantize-static{prefer=size} would cost +26,402 bytes and +0.0112 ms for 1.4e-04 less loss"}
        for s in sites
    ]  # fmt: skip
    return {
        "rank_correlation": 0.97, "source": numbers(), "missed": "", "best": trials[-1], "trials": trials,
        "start": "prune-structure",
        "starts": [
            {"recipe": name, "seen": numbers(), "skipped": skipped, "best": None if skipped else numbers()}
            for name, skipped in (("", ""), ("prune-structure", ""), ("drop-blocks", "too much is lost"))
        ],
        "decisions": decisions, "idle_candidates": {"p": "why"}, "sites": sites, "labels": ["a", "b", "c"],
    }  # fmt: skip


def _graph(sites: list[str], rng: random.Random) -> dict[str, object]:
    nodes = [["MatMul", s, "apply-plan" if rng.random() < 0.5 else "", s] for s in sites]
    edges = [[k, k + 1] for k in range(len(sites) - 1)]
    edges += [[k, k + 4] for k in range(0, len(sites) - 4, 3)]
    return {"nodes": nodes, "edges": sorted(edges)}


def _profile(sites: list[str], rng: random.Random) -> Profile:
    def rows() -> list[OperatorTime]:
        return [
            OperatorTime(s, "MatMul", s, rng.random() / 10, 1e6 * rng.random(), 10**4, rng.random() < 0.5)
            for s in sites
        ]  # fmt: skip

    return Profile(rows(), rows(), Peak(3e11, 3e12, 5e10), {"batch": 1})

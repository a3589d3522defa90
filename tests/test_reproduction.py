"""The command that repeats a compile."""

from pathlib import Path

import whet
from whet.options import Options
from whet.reproduction import reproduce


def test_a_plain_compile_is_short() -> None:
    assert reproduce("m.onnx", {}, Options(), None) == "whet compile m.onnx -o out"


def test_everything_that_differs_from_the_defaults_is_spelled() -> None:
    options = Options(
        recipe="quantize-dynamic", budget=whet.Budget(size="25%", latency=3.0), seed=7, prove=False, measure=False,
        threads=2, sizes={"batch": 8}, session={"a.b": "1"}, candidates="p{bits=4}", allow_noop=True,
    )  # fmt: skip
    found = reproduce("my net.onnx", {"--calibration": Path("c.npz")}, options, Path("o"))
    assert found == (
        "whet compile 'my net.onnx' -o o --recipe quantize-dynamic --calibration c.npz --size 25% --latency 3.0 "
        "--candidates 'p{bits=4}' --threads 2 --seed 7 --no-verify --no-measure --allow-noop --bind batch=8 "
        "--session a.b=1"
    )


def test_objects_of_a_program_have_no_name() -> None:
    assert reproduce("m", {"--labels": {}, "--calibration": None}, Options(), None).endswith(
        "--labels …"
    )

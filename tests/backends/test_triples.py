"""Triples: spellings of one machine, what is no machine that is known, and what a device says to one."""

import pytest

from whet.backends.device import find_device, host
from whet.backends.triples import find_place, plain_triple, triple_of
from whet.errors import UsageError


@pytest.mark.parametrize("spelled", ["aarch64-linux-gnu", "arm64-linux-gnu", "aarch64-unknown-linux-gnu"])  # fmt: skip
def test_spellings_of_one_machine(spelled: str) -> None:
    assert plain_triple(spelled) == "aarch64-linux-gnu"


@pytest.mark.parametrize(
    "spelled",
    ["armv7l-linux-gnueabihf", "aarch64-apple-darwin", "aarch64", "riscv64-linux-gnu", "x86_64-linux-musl", ""],
)  # fmt: skip
def test_other_machines_are_refused_by_name(spelled: str) -> None:
    with pytest.raises(UsageError) as caught:
        plain_triple(spelled)
    assert (
        str(caught.value)
        == f"triple is '{spelled}', expected one of aarch64-linux-gnu, x86_64-linux-gnu"
    )


def test_devices_have_triples() -> None:
    assert triple_of(find_device("raspberry-pi-4")) == "aarch64-linux-gnu"
    assert triple_of(find_device("x86-64-v3")) == "x86_64-linux-gnu"
    assert triple_of(find_device("cortex-m4")) == ""


def test_a_triple_alone_is_the_plainest_machine_of_its_kind() -> None:
    assert find_place("host") == host()
    assert find_place("host", "aarch64-linux-gnu") == find_device("aarch64-linux-gnu")
    assert not find_place("host", "x86_64-linux-gnu").here
    assert find_place("raspberry-pi-5", "arm64-linux-gnu") == find_device("raspberry-pi-5")


def test_two_that_contradict_each_other_are_named() -> None:
    with pytest.raises(
        UsageError,
        match=r"triple is 'x86_64-linux-gnu', the device 'raspberry-pi-4' is aarch64-linux",
    ):
        find_place("raspberry-pi-4", "x86_64-linux-gnu")  # fmt: skip
    with pytest.raises(UsageError, match=r"the device 'cortex-m4' is armv7e-m"):
        find_place("cortex-m4", "aarch64-linux-gnu")

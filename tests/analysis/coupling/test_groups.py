"""Families, kinds, and what a group takes away."""

from pruning import graph

from whet.analysis.coupling import Coupled, Kind


def test_a_head_takes_its_share_of_every_weight() -> None:
    """A fourth of the packed projection, of its bias, and of what reads the heads."""
    coupled = Coupled(graph("packed attention").graph)
    heads = next(f for f in coupled.families if f.kind is Kind.HEADS)
    removed = {slot.value.name: count for slot, count in heads.groups[0].removed().items()}
    assert removed == {"w0": 16 * 24, "b0": 24, "w1": 8 * 16}
    assert heads.groups[0].size == sum(removed.values())
    assert heads.name.endswith("heads")


def test_alike_groups_are_one_family() -> None:
    """Groups of one family take the same number of indices from the same axes."""
    for name in ("residual", "stream", "shared keys", "dense"):
        for family in Coupled(graph(name).graph).families:
            parts = {
                tuple((id(p.slot), p.axis, len(p.indices)) for p in group.slices)
                for group in family.groups
            }
            assert len(parts) == 1
            atoms = [group.atom for group in family.groups]
            assert len(set(atoms)) == len(atoms) > 1


def test_tied_tables_stay_tied() -> None:
    """The table that embeds and classifies is one constant, read by two nodes."""
    coupled = Coupled(graph("stream").graph)
    (table,) = [slot for slot in coupled.slots if slot.value.name == "table"]
    assert len(table.readers) == 2
    stream = next(f for f in coupled.families if f.kind is Kind.STREAM_DIMENSIONS)
    assert any(p.slot is table and p.axis == 1 for p in stream.groups[0].slices)

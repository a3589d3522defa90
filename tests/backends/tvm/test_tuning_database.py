"""What is kept of measurements."""

import dataclasses
import json
from pathlib import Path

import pytest
from tuning import MACHINE, Fake, database

from whet.backends.tvm.schedules import Schedules, read, spell
from whet.backends.tvm.tuning.database import Database, Record, stamp

RECORD = Record(1.0, {"a=2 b=1": 0.8, "a=0 b=0": "it crashed"}, "a=2 b=1", 0.8, True)


def test_a_record_comes_back(tmp_path: Path) -> None:
    database(tmp_path).keep("fake", RECORD)
    assert database(tmp_path).find("fake") == RECORD
    assert database(tmp_path).find("other") is None
    assert [p.name for p in tmp_path.iterdir()] == ["schedules.json"]


@pytest.mark.parametrize("change", [{"threads": 1}, {"cpu": "other"}, {"features": "+amx"}])
def test_it_counts_for_this_machine_only(tmp_path: Path, change: dict[str, object]) -> None:
    database(tmp_path).keep("fake", RECORD)
    other = dataclasses.replace(MACHINE, **change)  # type: ignore[arg-type]
    assert Database(other, tmp_path / "schedules.json").find("fake") is None


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    first, second = database(tmp_path), database(tmp_path)
    first.keep("one", RECORD)
    second.keep("two", RECORD)
    assert database(tmp_path).find("one") == database(tmp_path).find("two") == RECORD


def test_what_was_taken_back_stays_on_record(tmp_path: Path) -> None:
    database(tmp_path).keep("fake", RECORD)
    database(tmp_path).drop("fake", "no use")
    found = database(tmp_path).find("fake")
    assert found is not None
    assert (found.best, found.trials["a=2 b=1"], found.done) == ("", "no use", True)


@pytest.mark.parametrize("text", [
    "", "[]", "{}", '{"schema": 2, "entries": {}}', '{"schema": 1, "entries": []}',
    '{"schema": 1, "entries": {"KEY": {"usual_ms": 1.0}}}',
    '{"schema": 1, "entries": {"KEY": {"usual_ms": "1", "trials": {}, "best": "", "best_ms": 0.0, "done": true}}}',
    '{"schema": 1, "entries": {"KEY": {"usual_ms": 1.0, "trials": {"": 1}, "best": "", "best_ms": 0.0, "done": true}}}',
])  # fmt: skip
def test_what_is_no_database_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schedules.json"
    path.write_text(text.replace("KEY", f"{stamp(MACHINE)} | fake"))
    assert database(tmp_path).find("fake") is None
    database(tmp_path).keep("fake", RECORD)
    assert json.loads(path.read_text())["schema"] == 1
    assert database(tmp_path).find("fake") == RECORD


def test_a_folder_that_cannot_be_written_to_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    held = Database(MACHINE, tmp_path / "file" / "schedules.json")
    held.keep("fake", RECORD)
    assert held.find("fake") == RECORD


def test_schedules_are_spelled_one_way() -> None:
    assert spell({"b": 1, "a": 20}) == "a=20 b=1"
    assert read("a=20 b=1") == {"a": 20, "b": 1}
    for text in ("", "a", "a=x", "a=1 a=2", "a=-1"):
        assert read(text) is None


def test_only_a_schedule_of_the_same_choices_is_used() -> None:
    for text, taken in (("a=3 b=1", True), ("a=3", False), ("a=3 b=1 c=0", False), ("", False)):
        schedules = Schedules(lambda _key, text=text: (text, 2.0, 1.0))
        found = schedules.find(Fake(), 3)
        assert found == ({"a": 3, "b": 1} if taken else {"a": 1, "b": 0})
        assert schedules.better == (
            {"fake": {"usual, a=1 b=0": 2.0, "a=3 b=1": 1.0}} if taken else {}
        )
        assert schedules.calls["fake"] == 3

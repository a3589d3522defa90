"""From a transformed model to files that were loaded, compared and timed in a fresh process."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import onnx_ir

from whet.artifact import replace_folder
from whet.backends.base import RuntimeOptions
from whet.backends.measure import Timing, compare_speed, slower
from whet.backends.worker import Worker
from whet.comparison import check_agreement, hold_against, output_limit, record
from whet.errors import BrokenPass
from whet.ir.execute import CannotRun
from whet.ir.files import load_model
from whet.ir.saving import save_model
from whet.ir.values import weight_count
from whet.manifest import write_manifest
from whet.passes.pipeline import Step
from whet.printing import row_by_row, to_plain
from whet.report import SCHEMA, Agreement, Cost
from whet.setting import Result, Scene, Setting
from whet.shaking import shake
from whet.solve.trials import Trial

__all__ = ["Realizer"]


class Realizer:
    """Lowers models of one compile, and holds what comes out against its source."""

    def __init__(self, setting: Setting, scene: Scene) -> None:
        self._setting = setting
        self._scene = scene

    def realize(self, model: onnx_ir.Model, steps: list[Step], source: onnx_ir.Model) -> Result:
        """Lower a model into the setting's folder; compare and time it in a fresh process."""
        setting, scene = self._setting, self._scene
        setting.notes += setting.target.tune(model, setting.options.progress)
        files = self._lower(model)
        manifest = self._write_manifest(setting.folder, files, model)
        reason = setting.target.idle()
        if reason:
            setting.notes.append(
                f"the result was not executed, so neither compared nor timed: {reason}"
            )
            costs = self._costs(model, files, None, None)
            return Result(manifest, [], costs, None, False, model, source)
        setting.options.progress("check in a fresh process")
        with setting.open_result() as after:
            agreements = self._compare(model, steps, after)
            times, worse = self._measure(model, after)
            metric = None
            if scene.metric:
                metric = scene.metric.of_source(scene.before), scene.metric.of(after)
            costs = self._costs(model, files, times, after)
        return Result(manifest, agreements, costs, metric, worse, model, source)

    def publish(self, model: onnx_ir.Model, trial: Trial) -> None:
        """Leave a model where the result will be; an interrupted search leaves it there."""
        output = self._setting.output
        if output is None:
            return
        self._setting.options.progress("search: write the best so far")
        with tempfile.TemporaryDirectory(dir=self._setting.scratch) as name:
            folder = Path(name) / "artifact"
            folder.mkdir()
            files = self._setting.target.lower(model, folder)
            self._write_manifest(folder, files, model)
            record = {
                "schema": SCHEMA,
                "interrupted": True,
                "measured": dataclasses.asdict(trial.measured),
                "drop": trial.drop,
            }
            (folder / "report.json").write_text(row_by_row(to_plain(record)))
            replace_folder(folder, output)

    def _write_manifest(
        self, folder: Path, files: list[str], model: onnx_ir.Model
    ) -> dict[str, object]:
        setting = self._setting
        return write_manifest(
            folder,
            files,
            model,
            self._scene.prepared,
            setting.options,
            setting.recipe,
            setting.target,
        )

    def _lower(self, model: onnx_ir.Model) -> list[str]:
        setting = self._setting
        setting.options.progress(f"lower to {setting.target.name}")
        if setting.folder.exists():
            self._clear()
        setting.folder.mkdir()
        files = setting.target.lower(model, setting.folder)
        shutil.rmtree(setting.scratch / "weights", ignore_errors=True)
        reproducers = setting.scratch / "reproducers"
        if reproducers.is_dir():
            reproducers.rename(setting.folder / "reproducers")
        return files

    def _clear(self) -> None:
        """Remove an earlier result; what its proofs refused stays on record."""
        reproducers = self._setting.folder / "reproducers"
        if reproducers.is_dir():
            reproducers.rename(self._setting.scratch / "reproducers")
        shutil.rmtree(self._setting.folder)

    def _compare(self, model: onnx_ir.Model, steps: list[Step], after: Worker) -> list[Agreement]:
        setting, scene = self._setting, self._scene
        try:
            new = record(model, scene.bindings, after, setting.options.seed)
        except CannotRun as error:
            raise BrokenPass(f"the result does not run, although it loads: {error}") from error
        limit = max(output_limit(model), setting.target.rounding(model))
        found = hold_against(scene.expected, new, scene.bindings, scene.before.outputs, limit)
        runtime = setting.options.runtime
        plain = RuntimeOptions(runtime.threads, "none", runtime.config)
        note = check_agreement(
            found,
            steps,
            model,
            scene.bindings,
            scene.before,
            {
                "with the runtime's optimizations off": lambda: Worker(
                    scene.prepared.source, plain, turns=setting.turns
                ),
                "with every weight rounded to a neighbour": self._open_shaken,
            },
        )
        setting.notes += [note] if note else []
        return found

    def _open_shaken(self) -> Worker:
        """Load the source with other roundings of its weights."""
        setting = self._setting
        model = load_model(self._scene.prepared.source)
        shake(model, setting.options.seed)
        path = setting.scratch / "shaken.onnx"
        save_model(model, path)
        return Worker(path, setting.options.runtime, turns=setting.turns)

    def _measure(self, model: onnx_ir.Model, after: Worker) -> tuple[list[Timing] | None, bool]:
        """Return the times of source and result, and whether the result is slower beyond doubt."""
        setting, scene = self._setting, self._scene
        if not setting.options.timed:
            setting.notes.append(f"nothing was timed ({_untimed(setting)})")
            return None, False
        setting.options.progress("measure before and after")
        feeds = scene.bindings.feeds(model, 0, setting.options.seed)
        workers = [scene.before, after]
        together = setting.turns is None
        times = compare_speed(workers, [feeds, feeds], together=together)
        if not setting.target.timed or not setting.target.own_source:
            setting.notes.append(
                f"times are of this machine, ONNX Runtime against {setting.target.name}; nothing was decided by them"
            )
            return times, False
        if slower(times[0], times[1]):
            times = compare_speed(workers, [feeds, feeds], together=together)
        return times, slower(times[0], times[1])

    def _costs(
        self,
        model: onnx_ir.Model,
        files: list[str],
        times: list[Timing] | None,
        after: Worker | None,
    ) -> tuple[Cost, Cost]:
        scene = self._scene
        old = dataclasses.replace(
            scene.prepared.cost,
            time=None if times is None else times[0],
            peak_bytes=scene.before.peak_bytes(),
        )
        new = Cost(
            ops=len(model.graph),
            parameters=weight_count(model),
            bytes=self._setting.target.weigh(self._setting.folder, files),
            time=None if times is None else times[1],
            peak_bytes=0 if after is None else after.peak_bytes(),
        )
        return old, new


def _untimed(setting: Setting) -> str:
    place = setting.options.place
    if place.here:
        return "measuring is switched off"
    return f"the device is {place.name}, and milliseconds of this machine are not those of another"

"""Damaged, foreign and outdated checkpoints: found out, told, and never a wrong number.

The loop is a toy; the files, the digest and the rules are the real ones.
"""

import errno
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.stages import SYSTEM, Oscillator, PowerCutError, failing, job_for, spec_of

from ferminet_core.errors import BrokenRunError, FermiNetError, InputError, ReadError, ResumeError
from ferminet_core.inputs.config import resume_rules
from ferminet_core.inputs.setting_fields import UNCHANGEABLE
from ferminet_core.parallel import jax_setup
from ferminet_core.parallel.distributed import Ranks
from ferminet_core.runner import run_stage
from ferminet_core.runner.job import Job
from ferminet_core.runner.stopping import Stop
from ferminet_core.storage import artefacts, checkpoints, files, provenance


def drive(job: Job, stage: Oscillator | None = None, stop: Stop | None = None) -> str:
    log = jax_setup.CompileLog()
    stage = stage or Oscillator()
    return run_stage.run_loop(job, lambda spec, parents: stage, log, stop or Stop())


def interrupted(folder: Path, at: int = 40, /, **overrides: Any) -> Job:
    """A job that was cut off at a step, with checkpoints of the steps before."""
    job = job_for(spec_of(folder, **overrides), folder)
    with pytest.raises(PowerCutError):
        drive(job, Oscillator(failing(at, PowerCutError())))
    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    return drive(job_for(spec_of(folder), folder))


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return interrupted(tmp_path_factory.mktemp("cut"))


def copy_of(job: Job, folder: Path) -> Job:
    """The same job with its files in another folder."""
    shutil.copytree(job.work, folder / "optimise.work")
    return job_for(job.spec, folder)


def notes(job: Job) -> list[str]:
    lines = (job.work / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event["text"] for event in events if event["event"] == "note"]


def test_an_interrupted_run_goes_on(cut_off: Job, whole: str, tmp_path: Path) -> None:
    job = copy_of(cut_off, tmp_path)
    assert list(checkpoints.steps_in(job.checkpoints)) == [10, 20, 30]
    seen: list[int] = []
    assert drive(job, Oscillator(seen.append)) == whole
    assert seen == [40]
    assert notes(job)[-1] == "continues from step 30"
    # Of a finished stage one checkpoint is kept, from which it can be extended.
    assert list(checkpoints.steps_in(job.checkpoints)) == [40]
    provenance = files.read_json(job.provenance_path)
    assert provenance is not None
    assert provenance["history"][-1]["step"] == 30
    assert provenance["restarts"] == 1


def test_the_series_of_a_resume_stay_on_rank_0(
    cut_off: Job, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an inference take hundreds of megabytes, and no other rank reads them."""
    sent: list[Any] = []
    on_root = Ranks.on_root

    def listen(self: Ranks, compute: Callable[[], Any]) -> Any:
        sent.append(on_root(self, compute))
        return sent[-1]

    monkeypatch.setattr(Ranks, "on_root", listen)
    assert drive(copy_of(cut_off, tmp_path)) == whole
    beginning = sent[0]
    assert beginning.start.step == 30
    assert beginning.start.leaves
    assert beginning.start.series == {}


def test_a_device_without_memory_ends_a_stage_that_can_go_on(whole: str, tmp_path: Path) -> None:
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n")
    job = job_for(spec_of(tmp_path), tmp_path)
    with pytest.raises(
        MemoryError, match=r"^r_1\.4 optimise: RESOURCE_EXHAUSTED: .* mcmc\.walkers"
    ):
        drive(job, Oscillator(failing(20, error)))
    status = files.read_json(job.work / "status.json") or {}
    assert status["state"] == "resumable"
    assert drive(job, Oscillator()) == whole


def test_a_checkpoint_that_cannot_be_read_now_stays_in_place(
    cut_off: Job, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the file server is not a damaged file."""
    job = copy_of(cut_off, tmp_path)
    newest = checkpoints.steps_in(job.checkpoints)[30]

    class FailingZip(zipfile.ZipFile):
        def read(self, *args: Any, **kwargs: Any) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", FailingZip)
        with pytest.raises(ReadError, match=f"{newest}: cannot be read: Input/output error"):
            drive(job, Oscillator())
    assert not job.aside.exists()
    assert drive(job, Oscillator()) == whole


# --- damage ---------------------------------------------------------------------------------------


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def flip_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the archive's members, with right sums of the zip's own."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def delete_member(path: Path, rng: random.Random) -> None:
    def change(members: dict[str, bytes]) -> None:
        del members[rng.choice(sorted(members))]

    rewrite(path, change)


def flip_in_member(path: Path, rng: random.Random, metadata: bool) -> None:
    def change(members: dict[str, bytes]) -> None:
        names = [name for name in sorted(members) if name.endswith("zarr.json") == metadata]
        name = rng.choice(names)
        content = bytearray(members[name])
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        members[name] = bytes(content)

    rewrite(path, change)


def flip_data(path: Path, rng: random.Random) -> None:
    flip_in_member(path, rng, metadata=False)


def flip_metadata(path: Path, rng: random.Random) -> None:
    flip_in_member(path, rng, metadata=True)


def swap_arrays(path: Path, rng: random.Random) -> None:
    """Two series of equal shape and type under each other's names."""

    def change(members: dict[str, bytes]) -> None:
        one, two = "series.energy_Eh/c/0", "series.error_Eh/c/0"
        members[one], members[two] = members[two], members[one]

    rewrite(path, change)


def another_format(path: Path, rng: random.Random) -> None:
    def change(members: dict[str, bytes]) -> None:
        text = members["zarr.json"].decode()
        assert '"format_version": 1' in text
        members["zarr.json"] = text.replace('"format_version": 1', '"format_version": 9').encode()

    rewrite(path, change)


def older_under_its_name(path: Path, rng: random.Random) -> None:
    shutil.copyfile(path.with_name("000000010.zarr.zip"), path)


DAMAGES = (
    truncate,
    flip_bit,
    empty,
    delete_member,
    flip_data,
    flip_metadata,
    swap_arrays,
    another_format,
    older_under_its_name,
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("seed", range(24))
def test_a_damaged_checkpoint_is_left_out_and_kept(
    damage: Callable[[Path, random.Random], None],
    seed: int,
    cut_off: Job,
    whole: str,
    tmp_path: Path,
) -> None:
    """216 damages: the run goes on from the checkpoint before, or this one was not hurt."""
    job = copy_of(cut_off, tmp_path)
    path = job.checkpoints / "000000030.zarr.zip"
    before = path.read_bytes()
    damage(path, random.Random(seed))
    seen: list[int] = []
    assert drive(job, Oscillator(seen.append)) == whole
    if seen == [40]:
        # A bit without a meaning (a time in the zip's directory, say): nothing was lost.
        assert damage in (flip_bit, truncate, flip_metadata)
        assert path.exists() is False  # pruned at the end
        return
    assert seen == [30, 40]
    aside = list(job.aside.iterdir())
    assert [p.name for p in aside] == [path.name]
    assert aside[0].read_bytes() != before
    assert any(str(path) in note and "damaged checkpoint kept as" in note for note in notes(job))


def test_with_all_checkpoints_damaged_it_starts_over_and_says_so(
    cut_off: Job, whole: str, tmp_path: Path
) -> None:
    job = copy_of(cut_off, tmp_path)
    for path in checkpoints.steps_in(job.checkpoints).values():
        path.write_bytes(b"nothing")
    seen: list[int] = []
    assert drive(job, Oscillator(seen.append)) == whole
    assert seen == [10, 20, 30, 40]
    assert len(list(job.aside.iterdir())) == 3
    assert len(notes(job)) == 3


def test_a_result_of_a_version_with_other_settings_is_put_in_place_again(
    tmp_path: Path, whole: str
) -> None:
    """Its hash covers other settings than today's. Its spec says what it was made from."""
    job = job_for(spec_of(tmp_path), tmp_path)
    drive(job)
    ds = artefacts.load(job.result_path)
    spec = json.loads(ds.attrs["spec"])
    del spec["config"]["optimise"]["clip_centre"]  # its default is the value that was used
    older = {"spec": json.dumps(spec), "stage_hash": "another"}
    digest = artefacts.save(ds.assign_attrs(older), job.result_path)
    job.out.unlink()
    assert drive(job, Oscillator(failing(10, PowerCutError()))) == digest
    assert "finished before; its result is in place again" in notes(job)[-1]
    # With other settings it is another calculation's all the same.
    spec["config"]["optimise"]["clip"] = 3.0
    artefacts.save(ds.assign_attrs({**older, "spec": json.dumps(spec)}), job.result_path)
    job.out.unlink()
    assert drive(job) == whole
    assert "continues from step 40" in notes(job)[-1]


def test_a_damaged_result_is_made_again(tmp_path: Path, whole: str) -> None:
    job = job_for(spec_of(tmp_path), tmp_path)
    drive(job)
    job.out.unlink()
    truncate(job.result_path, random.Random(1))
    assert drive(job, Oscillator(failing(10, PowerCutError()))) == whole  # from the last checkpoint
    assert any("damaged result kept as" in note for note in notes(job))


# --- what is of another run -----------------------------------------------------------------------


def test_another_geometry_is_refused_though_all_shapes_fit(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = SYSTEM.replace("1.4", "1.5")
    spec = spec_of(tmp_path / "other", other)
    with pytest.raises(
        InputError, match=r"files of run 'r_1\.4' at R = 1\.4.*expected: run 'r_1\.5'"
    ):
        drive(job_for(spec, tmp_path))
    # The same name, but another molecule.
    moved = spec_of(tmp_path / "moved", SYSTEM.replace("0 0 R/2", "0 0 R/2+0.1"))
    with pytest.raises(
        InputError, match=r"molecule: computed with H1-H2 = 1\.4 bohr, the file says 1\.5 bohr"
    ):
        drive(job_for(moved, tmp_path))


def test_a_geometry_that_differs_by_rounding_is_resumed(tmp_path: Path) -> None:
    """As after a new value of a constant, where the spec file is written again for a setting."""
    interrupted(tmp_path)
    nearly = spec_of(tmp_path / "nearly", SYSTEM.replace("0 0 R/2", "0 0 R/2+1e-9"))
    job = job_for(nearly, tmp_path)
    drive(job)
    assert "continues from step" in notes(job)[-1]


KEYS = [key for key, rule in resume_rules().items() if rule in UNCHANGEABLE]
OTHER_VALUES = {
    "reference.method": "rhf",
    "reference.basis": "sto-3g",
    "network.kind": "psiformer",
    "network.determinant_form": "block",
    "network.envelope": "diagonal",
    "network.inputs": "log",
    "optimise.delay": 7.0,
    "pretrain.optimiser": "lamb",
    "optimise.optimiser": "adam",
    "optimise.clip_centre": "median",
    "pseudopotential.quadrature": "icosahedron",
    "runtime.precision": "float64",
    "mcmc.target_acceptance": 0.4,
    "optimise.ema_decay": 0.9,
    "optimise.momentum": 0.9,
    "mcmc.walkers": 32,
    "pretrain.min_iterations": 21,
}


@pytest.mark.parametrize(
    "key", [key for key in KEYS if not key.startswith(("inference.", "sharing."))]
)
def test_a_setting_that_may_not_change_is_refused_with_both_values(
    key: str, cut_off: Job, tmp_path: Path
) -> None:
    section, _, name = key.partition(".")
    config = cut_off.spec.config
    old = getattr(getattr(config, section), name) if name else getattr(config, section)
    new = OTHER_VALUES.get(key, (not old) if isinstance(old, bool) else None)
    if new is None:
        new = old + 1
    job = copy_of(cut_off, tmp_path)
    changed = job_for(spec_of(tmp_path / "changed", **{key: new}), tmp_path)
    with pytest.raises(InputError) as refusal:
        drive(changed)
    text = str(refusal.value)
    assert key in text
    assert "reset" in text
    for value in (old, new):
        assert str(value if not isinstance(value, (tuple, list)) else list(value)).lower() in (
            text.lower()
        )
    assert list(checkpoints.steps_in(job.checkpoints)) == [10, 20, 30]  # nothing is lost


def test_more_iterations_extend_a_finished_run(tmp_path: Path) -> None:
    job = job_for(spec_of(tmp_path, **{"optimise.iterations": 20}), tmp_path)
    drive(job, Oscillator(total=20))
    longer = job_for(spec_of(tmp_path, **{"optimise.iterations": 40}), tmp_path)
    seen: list[int] = []
    digest = drive(longer, Oscillator(seen.append, total=40))
    assert seen == [30, 40]
    assert "continues from step 20 with optimise.iterations 20 -> 40" in notes(longer)
    straight = job_for(longer.spec, tmp_path / "straight")
    assert drive(straight, Oscillator(total=40)) == digest
    with pytest.raises(InputError, match=r"iterations: .*40.* asks for 20; allowed: at least 40"):
        drive(job, Oscillator(total=20))


def test_settings_that_no_result_depends_on_change_nothing(tmp_path: Path) -> None:
    job = job_for(spec_of(tmp_path), tmp_path)
    digest = drive(job)
    other = spec_of(tmp_path, **{"checkpoint.keep": 7, "runtime.block": 3})
    assert drive(job_for(other, tmp_path), Oscillator(failing(10, PowerCutError()))) == digest


def test_other_parents_start_over_and_keep_the_old(tmp_path: Path, whole: str) -> None:
    spec = spec_of(tmp_path)
    parents = [job_for(spec, tmp_path / name) for name in ("a", "b")]
    drive(parents[0])
    drive(parents[1], Oscillator(total=30))
    job = job_for(spec, tmp_path, optimise=parents[0].out)
    drive(job)
    job = job_for(spec, tmp_path, optimise=parents[1].out)
    seen: list[int] = []
    drive(job, Oscillator(seen.append))
    assert seen == [10, 20, 30, 40]
    assert "other results of the parent stages" in notes(job)[-1]
    assert {p.name for p in job.aside.iterdir()} == {"000000040.zarr.zip", "result.zarr.zip"}


def test_older_code_is_continued_and_recorded(
    cut_off: Job, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = copy_of(cut_off, tmp_path)
    old = provenance.code_hash()
    monkeypatch.setattr(provenance, "code_hash", lambda: "newer")
    drive(job)
    told = files.read_json(job.provenance_path)
    assert told is not None
    assert told["code_hash"] == "newer"
    assert told["history"][0]["code_hash"] == old


# --- the end of a stage ---------------------------------------------------------------------------


def test_a_finished_stage_is_put_in_place_again_at_once(tmp_path: Path) -> None:
    job = job_for(spec_of(tmp_path), tmp_path)
    digest = drive(job)
    first = job.out.stat().st_mtime_ns
    job.out.unlink()
    assert drive(job, Oscillator(failing(10, PowerCutError()))) == digest  # without one step
    assert artefacts.digest(job.out) == digest
    assert job.out.stat().st_mtime_ns > first  # newer than its parents, for Snakemake


def test_a_request_to_stop_writes_a_checkpoint_and_holds_for_retries(
    tmp_path: Path, whole: str
) -> None:
    job = job_for(spec_of(tmp_path, **{"checkpoint.every_steps": None}), tmp_path)
    request = job.work / "stop.json"

    def ask(step: int) -> None:
        if step == 20:
            files.write_json(request, {})

    with pytest.raises(ResumeError, match="stopped on request; continues from step 20"):
        drive(job, Oscillator(ask))
    assert max(checkpoints.steps_in(job.checkpoints)) == 20
    status = files.read_json(job.work / "status.json")
    assert status is not None
    assert status["state"] == "resumable"
    retry = Job(job.stage, job.spec, job.out, job.work, attempt=2)
    with pytest.raises(ResumeError, match="start the workflow again"):
        drive(retry)
    seen: list[int] = []
    drive(job, Oscillator(seen.append))
    assert seen == [30, 40]


def test_the_wall_time_limit_ends_a_run_in_time(tmp_path: Path) -> None:
    job = job_for(spec_of(tmp_path), tmp_path)
    with pytest.raises(ResumeError, match="wall-time limit is near; continues from step 10"):
        drive(job, stop=Stop(wall_time_s=1.0))  # less than the margin: after the first block


def test_broken_runs_are_tried_again_only_by_force_or_when_changed(tmp_path: Path) -> None:
    job = job_for(spec_of(tmp_path), tmp_path)
    with pytest.raises(BrokenRunError):
        drive(job, Oscillator(failing(30, BrokenRunError("NaN"))))
    with pytest.raises(BrokenRunError, match="failed before"):
        drive(job)
    seen: list[int] = []
    forced = Job(job.stage, job.spec, job.out, job.work, force=True)
    with pytest.raises(BrokenRunError, match="NaN again"):
        drive(forced, Oscillator(lambda step: failing(40, BrokenRunError("NaN again"))(step)))
    changed = job_for(spec_of(tmp_path, **{"optimise.learning_rate": 0.01}), tmp_path)
    drive(changed, Oscillator(seen.append))
    assert seen == [10, 20, 30, 40]  # other settings: from the beginning
    assert "it failed and its settings have changed" in notes(changed)[-1]


def test_series_in_every_checkpoint_are_as_long_as_its_steps(cut_off: Job) -> None:
    for step, path in checkpoints.steps_in(cut_off.checkpoints).items():
        found = checkpoints.load(path)
        assert {len(values) for values in found.series.values()} == {step}
        assert found.attrs["seed"] == cut_off.spec.stage_seed("optimise")
        np.testing.assert_array_equal(found.leaves["step"], step)


def test_leftovers_of_writes_that_were_cut_short_are_removed(cut_off: Job, tmp_path: Path) -> None:
    job = copy_of(cut_off, tmp_path)
    stumps = [
        job.checkpoints / ".000000040.zarr.zip.abc.tmp",
        job.work / ".status.json.abc.tmp",
        job.out.with_name(f".{job.out.name}.abc.tmp"),
    ]
    for path in stumps:
        path.write_bytes(b"half")
    drive(job)
    assert not any(path.exists() for path in stumps)


def test_no_failure_is_without_a_kind() -> None:
    codes = {kind.exit_code for kind in FermiNetError.__subclasses__()}
    assert codes == {2, 65, 73, 74, 85}

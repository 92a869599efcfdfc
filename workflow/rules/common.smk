# Configuration, names of files, and what the rules have in common. Parsing writes nothing.
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import yaml
from snakemake.common.tbdstring import TBDString
from snakemake.exceptions import WorkflowError

from ferminet_core.errors import FermiNetError, InputError, LockedError
from ferminet_core.inputs.messages import did_you_mean
from ferminet_core.inputs.stage_table import STAGES

# Jobs parse this file as well, several times each, and need less.
if workflow.is_main_process:
    from snakemake.utils import validate

    from ferminet_core.inputs.scan import load_scan
    from ferminet_core.inputs.spec_files import FROZEN_SCAN, find_changes, freeze
    from ferminet_core.inputs.warm_starts import generations
    from ferminet_core.runner.workflow_lock import hold

# In the main process, and in a Slurm job around the process that runs the stage.
if not workflow.subprocess_exec:
    sys.path.append(str(Path(workflow.basedir) / "workflow" / "executors"))
    from slurm_jobs import install

    install()

# The rules' `python` is the one that runs Snakemake, whether its environment is active or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)


def fail(error):
    """End with one line in place of a traceback, before any job."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def read_texts():
    """Take names and paths from the words of --config, also of a profile, as they are.

    Snakemake reads the values as YAML, for which 2026_11_28 is a number. A profile puts quotes
    around a text that looks like one.
    """
    for word in workflow.config_settings.config_args or ():
        key, _, text = word.partition("=")
        if key in ("system", "results", "preset", "set"):
            quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
            config[key] = text[1:-1] if quoted else text


def check_config():
    """Refuse unknown keys and values of the wrong kind; set defaults."""
    schema = Path(workflow.basedir) / "workflow" / "schemas" / "config.schema.yaml"
    known = yaml.safe_load(schema.read_text(encoding="utf-8"))["properties"]
    if not workflow.is_main_process:  # which has checked them
        for key, entry in known.items():
            config.setdefault(key, entry.get("default"))
        return
    for key in config:
        if key not in known:
            raise InputError(f"--config {key}: unknown key{did_you_mean(key, known)}")
    try:
        validate(config, str(schema))
    except WorkflowError as error:
        found = error.__context__  # jsonschema's own error
        key = ".".join(map(str, found.path))
        hint = "; put quotes around it" if found.validator == "type" else ""
        raise InputError(f"--config {key}: {found.message}{hint}") from None


def keep_onstart():
    """Make --no-hooks leave out the table after a failure only, not the lock on the scan."""
    execute = workflow.execute

    def with_onstart(*arguments, **named):
        if workflow.execution_settings.no_hooks:
            workflow.execution_settings.no_hooks = False
            workflow.onerror(lambda log: None)
            workflow.onsuccess(lambda log: None)
        return execute(*arguments, **named)

    workflow.execute = with_onstart


def frozen_stamp():
    """Which file holds the scan as it was when the last jobs started; None without a file."""
    try:
        stat = os.stat(f"{SCAN_FOLDER}/{FROZEN_SCAN}")
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def refuse_changed_scan():
    """Refuse if another Snakemake has worked on the scan since this one read its files."""
    if frozen_stamp() != FROZEN:
        raise LockedError(
            f"{SCAN_FOLDER}: another Snakemake has just worked on this scan; start again"
        )


try:
    read_texts()
    check_config()
except FermiNetError as error:
    fail(error)

# Minutes of a job that pass before its stage starts.
START_MINUTES = 2

RESULTS = os.path.expanduser(config["results"])
FOLDER = f"{RESULTS}/{{scan}}"
SPEC = f"{FOLDER}/spec/{{run_id}}.json"
CONVENTIONAL_SPEC = f"{FOLDER}/spec/conventional/{{run_id}}.json"
RUN = f"{FOLDER}/runs/{{run_id}}"
LOGS = f"{FOLDER}/logs/{{run_id}}"
# Of a group of runs that share a wavefunction. The names of its logs are those of its stages, so a
# run of the same name has others.
GROUP_SPEC = f"{FOLDER}/spec/groups/{{group}}.json"
GROUP = f"{FOLDER}/groups/{{group}}"
GROUP_LOGS = f"{FOLDER}/logs/{{group}}"

if workflow.is_main_process:
    SYSTEM = config["system"]
    if not SYSTEM.endswith((".yaml", ".yml")):
        SYSTEM = f"systems/{SYSTEM}.yaml"
    try:
        SCAN = load_scan(
            Path(SYSTEM),
            preset=config.get("preset"),
            overrides=shlex.split(config.get("set", "")),
        )
        SCAN_FOLDER = f"{RESULTS}/{SCAN.name}"
        FROZEN = frozen_stamp()
        CHANGES = find_changes(SCAN, RESULTS, config["takeover"] in (True, "yes"))
    except FermiNetError as error:
        fail(error)
    for line in CHANGES.warnings:
        print(f"warning: {line}", file=sys.stderr)
    keep_onstart()
    RUN_IDS = [run.run_id for run in SCAN.runs]
    # Those that have left the scan, but not their group.
    MEMBERS = [run_id for names in CHANGES.members.values() for run_id in names]

    # The number of warm starts from an anchor to each run; anchors are not named.
    GENERATIONS = generations(CHANGES.neighbours) or {}
    # Snakemake follows a chain of jobs by recursion: four calls for each warm start.
    sys.setrecursionlimit(
        sys.getrecursionlimit() + 10 * max(GENERATIONS.values(), default=0)
    )
    UNFINISHED = Counter(
        GENERATIONS.get(run_id, 0)
        for run_id in RUN_IDS
        if not os.path.exists(f"{SCAN_FOLDER}/runs/{run_id}/inference.zarr.zip")
    )

    wildcard_constraints:
        scan=re.escape(SCAN.name),
        run_id="|".join(map(re.escape, dict.fromkeys([*RUN_IDS, *MEMBERS]))),
        group="|".join(map(re.escape, CHANGES.members)) or "[^/]+",

else:

    # A job's process never reads the system file, which may have changed since the job was
    # submitted. The wildcards name the scan and the run, and the spec file holds the rest.
    wildcard_constraints:
        scan="[^/]+",
        run_id="[^/]+",
        group="[^/]+",


def cores(wildcards):
    """Number of cores of a stage.

    On one machine, several runs on a core each are faster than one run after the other on all
    cores. With warm starts, the runs at the same distance from an anchor share the cores. On a
    cluster the profile sets the number of cores of a rank (set-threads).
    """
    if not (workflow.is_main_process and workflow.resource_settings.cores):
        return 1
    together = UNFINISHED[GENERATIONS.get(wildcards.run_id, 0)]
    return max(1, workflow.cores // max(1, together))


def spec_of(stage):
    """The spec file of a stage."""
    if stage.of_group:
        return GROUP_SPEC
    return SPEC if stage.chain else CONVENTIONAL_SPEC


def all_cores(wildcards):
    """Number of cores of a stage of a group, which all runs of the group wait for."""
    if not (workflow.is_main_process and workflow.resource_settings.cores):
        return 1
    return workflow.cores


def result(stage):
    """The artefact of a stage of a run."""
    return f"{RUN}/{stage}.zarr.zip"


def group_result(stage):
    """The artefact of a stage of a group."""
    return f"{GROUP}/{stage}.zarr.zip"


def spec_in_job(pattern, wildcards):
    """The run or the group in a spec file, in the process of a job."""
    from ferminet_core.inputs.run_spec import load_spec

    return load_spec(pattern.format(**wildcards))


def neighbour_of(stage):
    """The input of a stage that may start from this stage of another run."""

    def found(wildcards):
        if workflow.is_main_process:
            other = CHANGES.neighbours.get(wildcards.run_id)
        else:
            other = spec_in_job(SPEC, wildcards).neighbour
        if not other:
            return []
        return result(stage).format(scan=wildcards.scan, run_id=other)

    return {"neighbour": found} if stage else {}


def group_of(stage):
    """The input of a stage that may start from this stage of a group."""

    def found(wildcards):
        if workflow.is_main_process:
            name = CHANGES.groups.get(wildcards.run_id)
        else:
            name = spec_in_job(SPEC, wildcards).group
        if not name:
            return []
        return group_result(stage).format(scan=wildcards.scan, group=name)

    return {"group": found} if stage else {}


def parents_of(stage):
    """The inputs of a stage that are results of its parents, by name."""

    def of_members(parent):
        def found(wildcards):
            if workflow.is_main_process:
                names = CHANGES.members.get(wildcards.group, ())
            else:
                spec = spec_in_job(GROUP_SPEC, wildcards)
                names = [member.run_id for member in spec.members]
            return expand(result(parent), scan=wildcards.scan, run_id=names)

        return found

    if not stage.of_group:
        return {parent: result(parent) for parent in stage.parents}
    return {
        parent: (
            of_members(parent) if parent in stage.of_members else group_result(parent)
        )
        for parent in stage.parents
    }


def ranks(wildcards, resources):
    """Number of processes that work on a stage together, in the words of the executor."""
    nodes, tasks = 1, resources.get("tasks", 1)
    if per_node := resources.get("tasks_per_node"):
        nodes, tasks = resources.get("nodes", 1), per_node
    # An expression on a spec file that does not exist yet. Snakemake evaluates it, and this
    # function, again before the job starts.
    if isinstance(tasks, TBDString):
        return 1
    return int(nodes) * int(tasks)


def launcher(wildcards, resources, threads):
    """The command in front of `python` that starts the ranks; empty for one process."""
    count = ranks(wildcards, resources)
    if count == 1:
        return ""
    if not resources.get("mpi"):
        raise WorkflowError(
            f"the profile asks for {count} ranks, but names no launcher for them: add the resource"
            " mpi (try mpi: \"'srun --mpi=pmix'\")"
        )
    words = f"{resources.mpi} -n {count}"
    cores = resources.get("cpus_per_task", threads)
    # A step of Slurm no longer inherits the cores per task of its job.
    if words.startswith("srun") and cores > 0:
        words += f" --cpus-per-task={cores}"
    if words.startswith("srun") and resources.get("tasks_per_node"):
        words += f" --ntasks-per-node={resources.tasks_per_node}"
    return words


def share_of_ranks(wildcards, resources, threads):
    """Options for the ranks, cores and GPUs of a stage.

    One process takes as many GPUs as the profile says. Several ranks divide all that they see,
    which 0 stands for.
    """
    count = ranks(wildcards, resources)
    gpus = int(resources.get("gpu", 0)) if count == 1 else 0
    return f"--ranks {count} --devices {threads} --gpus {gpus}"


def share_of_cores(wildcards, threads):
    """Options for the cores of a stage that is one process."""
    return f"--devices {threads}"


def parents(wildcards, input):
    """Options for the results that a stage reads, by the names of the rule's inputs."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(path))}"
        for name, files in input.items()
        if name != "spec"
        for path in ([files] if isinstance(files, str) else files)
    )


def wall_time(wildcards, resources):
    """The option for the wall time of a job of a batch system that a stage cannot ask.

    Slurm is asked. Elsewhere it is the job's runtime, in minutes, less some for its start.
    """
    minutes = resources.get("runtime", 0)
    asked = workflow.is_main_process or "SLURM_JOB_ID" in os.environ
    if asked or not minutes or isinstance(minutes, TBDString):
        return ""
    return f"--wall-time {max(1, int(minutes) - START_MINUTES)}"


def work_folder(wildcards, output):
    return str(output[0]).replace(".zarr.zip", ".work")


def attempt_number(wildcards, attempt):
    """The number of this attempt. A stage that a user stopped is not retried."""
    return attempt


def staged(wildcards):
    """A folder with what `specs` writes and deletes, in Snakemake's scratch space.

    Snakemake must see the present files as outdated, also in a dry run, which may not touch them.
    So this folder's time is a moment after theirs. It is not the present time, because the clock of
    a file server may differ from this machine's.
    """
    folder = workflow.snakemake_tmp_dir / "specs"
    for name, text in CHANGES.texts.items():
        path = folder / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    obsolete = "".join(f"{name}\n" for name in CHANGES.obsolete)
    (folder / "obsolete.txt").write_text(obsolete, encoding="utf-8")
    present = [
        path.stat().st_mtime
        for pattern in (
            *("runs.txt", "scan.csv", "spec/**/*.json"),
            *("runs/*/*.zarr.zip", "groups/*/*.zarr.zip"),
        )
        for path in Path(SCAN_FOLDER).glob(pattern)
    ]
    moment = max(present, default=0.0) + 0.001
    os.utime(folder, (moment, moment))
    return str(folder)

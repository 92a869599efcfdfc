# From the system file to the run table: names, folders and threads for the rules.
import builtins
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

from snakemake.exceptions import WorkflowError

from ferminet_core.errors import FermiNetError
from ferminet_core.inputs.run_spec import electrons
from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import neighbours, write_specs
from ferminet_core.inputs.warm_starts import generation
from ferminet_core.runner.workflow_lock import clear_dead_locks

# The rules' `python` is the one that runs Snakemake, whether its environment is active or not.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)

RESULTS = str(config.get("results", "results"))
SYSTEM = str(config.get("system", "h2"))
if not SYSTEM.endswith((".yaml", ".yml")):
    SYSTEM = f"systems/{SYSTEM}.yaml"
PRESET = config.get("preset")
OVERRIDES = shlex.split(str(config.get("set", "")))

try:
    SCAN = load_scan(Path(SYSTEM), preset=PRESET, overrides=OVERRIDES)
    if workflow.is_main_process:
        clear_dead_locks(Path(RESULTS) / SCAN.name, Path(".snakemake/locks"))
    write_specs(SCAN, Path(RESULTS))
    # Of warm starts, as the spec files have it: who has started from one run keeps to it.
    NEIGHBOURS = neighbours(SCAN, Path(RESULTS))
except FermiNetError as error:
    # One line instead of a traceback into this file, and no job.
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

RUN_IDS = [run.run_id for run in SCAN.runs]
# Those that ask for conventional energies.
CONVENTIONAL = [run.run_id for run in SCAN.runs if run.config.conventional.methods]
FOLDER = f"{RESULTS}/{SCAN.name}"
SPEC = f"{FOLDER}/spec/{{run_id}}.json"
RUN = f"{FOLDER}/runs/{{run_id}}"
LOGS = f"{FOLDER}/logs/{{run_id}}"

# Rewritten only when runs come or go, which makes the table anew.
RUN_LIST = f"{FOLDER}/runs.txt"
if not os.path.exists(RUN_LIST) or Path(RUN_LIST).read_text().split() != RUN_IDS:
    Path(RUN_LIST).write_text("\n".join(RUN_IDS) + "\n")

# How many unfinished runs there are as far from an anchor as each other; all are 0 steps away where
# none starts from another.
UNFINISHED = Counter(
    generation(NEIGHBOURS, r)
    for r in RUN_IDS
    if not os.path.exists(f"{FOLDER}/runs/{r}/inference.zarr.zip")
)


def cores(wildcards):
    """How many cores a stage of a run takes.

    On one machine several runs side by side on a core each are faster than one after the other on
    all cores; with warm starts those as far from an anchor run side by side. On a cluster the
    profile says how many cores a rank gets (set-threads).
    """
    if not (workflow.is_main_process and workflow.resource_settings.cores):
        return 1
    beside = UNFINISHED[generation(NEIGHBOURS, wildcards.run_id)]
    return max(1, workflow.cores // max(1, beside))


# For the expressions in profiles, which see built-in names only: `tasks: 4 if electrons(input.spec)
# > 20 else 2` lets the number of ranks follow the size of the system.
builtins.electrons = electrons


def ranks(wildcards, resources):
    """How many processes work on a stage together, by the resources that the executor knows."""
    if per_node := resources.get("tasks_per_node"):
        return int(resources.get("nodes", 1)) * int(per_node)
    return int(resources.get("tasks", 1))


def launcher(wildcards, resources, threads):
    """The command in front of `python` that starts the ranks; none for one process."""
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
    # A step of Slurm no longer takes over the cores per task that the job was given.
    if words.startswith("srun") and cores > 0:
        words += f" --cpus-per-task={cores}"
    return words


def gpus(wildcards, resources):
    """How many GPUs a stage of one process takes of those it sees; 0 for all, which ranks part."""
    return int(resources.get("gpu", 0)) if ranks(wildcards, resources) == 1 else 0


def neighbour(wildcards):
    """With a warm start the optimisation of the neighbour; nothing otherwise."""
    if found := NEIGHBOURS.get(wildcards.run_id):
        return f"{FOLDER}/runs/{found}/optimise.zarr.zip"
    return []


def attempt_number(wildcards, attempt):
    """Which try this is: a stage that a user stopped gets no second one."""
    return attempt


wildcard_constraints:
    run_id="|".join(re.escape(run_id) for run_id in RUN_IDS),

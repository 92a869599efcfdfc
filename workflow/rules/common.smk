# From the system file to the run table: names, folders and threads for the rules.
import os
import re
import shlex
import sys
from pathlib import Path

from ferminet_core.errors import FermiNetError
from ferminet_core.scan import load_scan, write_specs
from ferminet_core.scan_lock import clear_dead_locks

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
except FermiNetError as error:
    # One line instead of a traceback into this file, and no job.
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)

RUN_IDS = [run.run_id for run in SCAN.runs]
FOLDER = f"{RESULTS}/{SCAN.name}"
SPEC = f"{FOLDER}/spec/{{run_id}}.json"
RUN = f"{FOLDER}/runs/{{run_id}}"
LOGS = f"{FOLDER}/logs/{{run_id}}"

# Rewritten only when runs come or go, which makes the table anew.
RUN_LIST = f"{FOLDER}/runs.txt"
if not os.path.exists(RUN_LIST) or Path(RUN_LIST).read_text().split() != RUN_IDS:
    Path(RUN_LIST).write_text("\n".join(RUN_IDS) + "\n")

# Several runs side by side on a core each are faster than one after the other on all cores.
UNFINISHED = [
    r for r in RUN_IDS if not os.path.exists(f"{FOLDER}/runs/{r}/inference.zarr.zip")
]
THREADS = max(1, (workflow.cores or 1) // max(1, len(UNFINISHED)))


def attempt_number(wildcards, attempt):
    """Which try this is: a stage that a user stopped gets no second one."""
    return attempt


wildcard_constraints:
    run_id="|".join(re.escape(run_id) for run_id in RUN_IDS),

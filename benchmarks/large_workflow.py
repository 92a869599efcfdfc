"""A scan of many geometries through the Slurm executor of the workflow, with nothing computed.

    .venv/bin/python -m benchmarks.large_workflow 1000

Stand-ins for `sbatch` and `squeue` replace Slurm: each job that is submitted has succeeded at once,
and its result is an empty file. What is left is the work of the main process.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ferminet_core.inputs.scan import load_scan
from ferminet_core.inputs.spec_files import find_changes

ROOT = Path(__file__).resolve().parent.parent
SYSTEM = """
name: large
units: bohr
atoms: [H 0 0 -R/2, H 0 0 R/2]
parameters: {{R: {{start: 1.0, stop: 10.0, num: {count}}}}}
preset: smoke
"""
SBATCH = """#!{python}
import json, pathlib, re, sys
script, folder = sys.stdin.read(), pathlib.Path({folder!r})
calls = folder / "sbatch.txt"
with open(calls, "a") as file:
    file.write("x")
number = calls.stat().st_size
wanted = re.compile(r"--target-jobs '?(\\w+):scan=large,run_id=([^ ',]+)")
for stage, run in wanted.findall(script):
    path = folder / "results/large/runs" / run / (stage + ".zarr.zip")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
array = re.search(r"--array=1-(\\d+)", " ".join(sys.argv))
tasks = [f"{{number}}_{{i + 1}}" for i in range(int(array[1]))] if array else [str(number)]
with open(folder / "squeue.txt", "a") as file:
    file.writelines(task + "|COMPLETED\\n" for task in tasks)
print(number)
"""


def stand_ins(folder: Path) -> Path:
    """A folder with the commands of a Slurm whose jobs are done at once."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    texts = {
        "sbatch": SBATCH.format(python=sys.executable, folder=str(folder)),
        "squeue": f"#!/bin/sh\ncat {folder}/squeue.txt\n",
        **dict.fromkeys(("sacctmgr", "sshare", "scontrol", "scancel"), "#!/bin/sh\n"),
    }
    for name, text in texts.items():
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    return bin_folder


def main(count: int) -> None:
    """Time the parts for a scan of this number of geometries, and print them as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        system = folder / "system.yaml"
        system.write_text(SYSTEM.format(count=count))
        began = time.perf_counter()
        scan = load_scan(system)
        loaded = time.perf_counter()
        find_changes(scan, folder / "results")
        figures = {"geometries": count, "load_s": loaded - began}
        figures["find_changes_new_s"] = time.perf_counter() - loaded
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--profile", str(ROOT / "cluster_profiles" / "slurm"), "--jobs", "5000"]
        command += [
            "--directory",
            str(folder / "workdir"),
            "--slurm-init-seconds-before-status-checks",
            "1",
        ]
        command += ["--until", "inference", "--scheduler", "greedy"]
        command += ["--config", f"system={system}", f"results={folder}/results"]
        environment = {**os.environ, "PATH": f"{stand_ins(folder)}:{os.environ['PATH']}"}
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        figures["workflow_s"] = time.perf_counter() - began
        figures["workflow_MiB"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        figures["submissions"] = (folder / "sbatch.txt").stat().st_size
        figures["jobs"] = len(re.findall("Finished jobid", done.stderr + done.stdout))
        began = time.perf_counter()
        find_changes(scan, folder / "results")
        figures["find_changes_again_s"] = time.perf_counter() - began
    print(json.dumps({key: round(value, 2) for key, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]))

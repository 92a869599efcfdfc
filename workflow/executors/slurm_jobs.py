"""How the workflow submits jobs to Slurm and follows them, on top of Snakemake's own executor.

`install` puts these classes in the place of the executor `slurm` and of the one that runs inside
its jobs. Options and profiles stay those of the executor. What differs:

* Jobs of a rule that become ready together are one job array. With the resource `bundle`, each of
  its tasks runs several jobs one after the other, and each job succeeds or fails on its own.
* A refused submission is repeated until Slurm accepts it.
* A job that ended early and left a newer checkpoint goes on in another Slurm job, without a retry.
  A broken stage and one that a user stopped are not retried.
* A job that Slurm no longer knows is judged by its files.
"""

import asyncio
import re
import shlex
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_slurm import Executor as PluginExecutor
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra
from snakemake_executor_plugin_slurm_jobstep import Executor as PluginStepExecutor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from ferminet_core.runner.stopping import REQUEST
from ferminet_core.storage import lease

# Seconds until a refused submission is repeated: at first, and at most.
RESUBMIT_S = 10.0
LONGEST_RESUBMIT_S = 300.0
# Slurm's words for a request that it will never accept. All other refusals pass with time: limits
# on jobs, a controller that is away, a partition that is down.
HOPELESS = re.compile(
    r"invalid|unrecognized|not permitted|permission denied|configuration is not available"
    r"|more processors requested|not available in (this|the) partition|command not found",
    re.IGNORECASE,
)
ENDED = (
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"),
    *("NODE_FAIL", "BOOT_FAIL", "PREEMPTED"),
)
# Queries in a row that do not know a job, or call it pre-empted, until its files decide. An
# accounting database learns of jobs late, so its answers count only after a while.
ENOUGH_QUERIES = 3
DATABASE_DELAY_S = 600.0
LONGEST_INTERVAL_S = 120.0
# Resources that differ between jobs that Slurm may treat alike.
OWN_RESOURCES = {"attempt_number", "tmpdir"}
# Slurm refuses scripts of more than 4 MiB (max_script_size).
LONGEST_SCRIPT = 3_000_000


def install() -> None:
    """Use these classes for the executor `slurm` and inside its jobs."""
    registry = ExecutorPluginRegistry()
    registry.get_plugin("slurm").executor = Executor
    registry.get_plugin("slurm-jobstep").executor = StepExecutor


class StepExecutor(PluginStepExecutor):
    """The executor inside a Slurm job."""

    def get_python_executable(self) -> str:
        """The interpreter, quoted: a folder's name may hold a space."""
        return shlex.quote(sys.executable)


@dataclass(frozen=True)
class Batch:
    """Jobs of one rule with the same requests; one submission.

    Attributes:
        tasks: The jobs of each task of the array. A task runs its jobs one after the other.
        options: The words of `sbatch` before those that name an array.
    """

    tasks: tuple[tuple[Any, ...], ...]
    options: str

    def halves(self) -> "list[Batch]":
        """This batch in two parts; itself if it has one task."""
        middle = len(self.tasks) // 2
        parts = (self.tasks[:middle], self.tasks[middle:])
        return [Batch(part, self.options) for part in parts if part]

    def __str__(self) -> str:
        jobs = [job for task in self.tasks for job in task]
        first = _name(jobs[0])
        return first if len(jobs) == 1 else f"{first} and {len(jobs) - 1} more"


class Executor(PluginExecutor):
    """Submits jobs to Slurm and follows them."""

    def __post_init__(self, test_mode: bool = False) -> None:
        """Prepare; Snakemake calls this when the executor starts."""
        self._ending = threading.Event()
        self._silent = False
        self._interval = self.workflow.executor_settings.init_seconds_before_status_checks
        super().__post_init__(test_mode)

    def get_python_executable(self) -> str:
        """The interpreter, quoted: a folder's name may hold a space."""
        return shlex.quote(super().get_python_executable())

    # --- submission -------------------------------------------------------------------------------

    def run_jobs(self, jobs: list[Any]) -> None:
        """Submit jobs that are ready together. Threads do so, one submission after the other."""
        for alike in _alike(jobs):
            for job in alike:
                self.run_job_pre(job)
            self._job_submission_executor.submit(self._submit_all, alike)

    def _submit_all(self, jobs: Sequence[Any]) -> None:
        """Submit jobs with the same requests, and report those that cannot be submitted."""
        left = list(jobs)
        try:
            waiting = [Batch(tasks, self._options(tasks)) for tasks in self._cut(jobs)]
            while waiting and not self._ending.is_set():
                waiting = self._submit_patiently(waiting[0]) + waiting[1:]
                left = [job for batch in waiting for task in batch.tasks for job in task]
        except Exception as error:  # noqa: BLE001  (in a thread: it would be lost)
            traceback.print_exc()
            for job in left:  # others are submitted, and run
                self._give_up(
                    SubmittedJobInfo(job), f"not submitted: {type(error).__name__}: {error}"
                )

    def _cut(self, jobs: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], ...]]:
        """Arrays of tasks of jobs, as large as Slurm takes them."""
        size = max(1, int(jobs[0].resources.get("bundle", 1)))
        script = len(self.format_job_exec(jobs[0])) * size
        longest = max(1, min(self.max_array_size, LONGEST_SCRIPT // script))
        tasks = [tuple(jobs[i : i + size]) for i in range(0, len(jobs), size)]
        for i in range(0, len(tasks), longest):
            yield tuple(tasks[i : i + longest])

    def _options(self, tasks: tuple[tuple[Any, ...], ...]) -> str:
        """The words of `sbatch` that say what each task needs."""
        job = tasks[0][0]
        kind = "group" if job.is_group() else "rule"
        name = "%A_%a.log" if len(tasks) > 1 else "%j.log"
        log = self.slurm_logdir / f"{kind}_{job.name}" / name
        log.parent.mkdir(parents=True, exist_ok=True)
        validate_slurm_extra(job)
        words = get_submit_command(
            job,
            {
                "run_uuid": self.run_uuid,
                "slurm_logfile": log,
                "comment_str": f"{kind}_{job.name}",
                "account": next(self.get_account_arg(job)),
                "partition": self.get_partition_arg(job),
                "workdir": self.workflow.workdir_init,
            },
            settings=self.workflow.executor_settings,
            failed_nodes=self._failed_nodes,
        )
        words += set_gres_string(job)
        longest = max(len(task) for task in tasks)
        if longest > 1 and job.resources.get("runtime"):
            words += f" -t {longest * int(job.resources.runtime)}"  # Slurm takes the last one
        return words

    def _submit_patiently(self, batch: Batch) -> list[Batch]:
        """Submit a batch; wait if Slurm refuses it, and return what is still to be submitted.

        An array that a limit on jobs refuses is cut in halves, so that a part may pass.
        """
        wait = RESUBMIT_S
        while not self._ending.is_set():
            refusal = self._submit(batch)
            if refusal is None:
                return []
            if HOPELESS.search(refusal):
                for job in (job for task in batch.tasks for job in task):
                    self._give_up(SubmittedJobInfo(job), f"Slurm refuses it: {refusal}")
                return []
            self.logger.warning(
                f"Slurm refuses {batch}: {refusal}. Trying again in {wait:g} s; this is no retry."
            )
            self._ending.wait(wait)
            if len(batch.tasks) > 1:
                return batch.halves()
            wait = min(2 * wait, LONGEST_RESUBMIT_S)
        return []

    def _submit(self, batch: Batch) -> str | None:
        """Call `sbatch` once; returns why it refused."""
        array = f" --array=1-{len(batch.tasks)}" if len(batch.tasks) > 1 else ""
        steps = {job: _step(job) for task in batch.tasks for job in task}
        done = subprocess.run(
            f"{batch.options}{array} /dev/stdin",
            shell=True,
            input=self._script(batch),
            capture_output=True,
            text=True,
            check=False,
        )
        number = done.stdout.strip().split(";")[0].split()[-1:]
        if done.returncode or not number or not number[0].isdigit():
            return " ".join((done.stderr or done.stdout).split()) or f"code {done.returncode}"
        folder = Path(shlex.split(batch.options)[shlex.split(batch.options).index("--output") + 1])
        for index, task in enumerate(batch.tasks, start=1):
            name = f"{number[0]}_{index}" if array else number[0]
            for job in task:
                aux = {
                    "slurm_logfile": folder.with_name(f"{name}.log"),
                    "step": steps[job],
                    "alone": len(task) == 1,
                    "submitted": time.monotonic(),
                }
                self.report_job_submission(SubmittedJobInfo(job, name, aux))
        self.logger.info(f"Slurm job {number[0]}: {batch}")
        return None

    def _script(self, batch: Batch) -> str:
        """The batch script: for each task the commands of its jobs."""
        if [len(task) for task in batch.tasks] == [1]:
            return f"#!/bin/sh\n{self.format_job_exec(batch.tasks[0][0])}\n"
        lines = ["#!/bin/sh", "code=0", "case ${SLURM_ARRAY_TASK_ID:-1} in"]
        for index, task in enumerate(batch.tasks, start=1):
            lines.append(f"{index})")
            lines += [f"{self.format_job_exec(job)} || code=1" for job in task]
            lines.append(";;")
        return "\n".join([*lines, "esac", "exit $code", ""])

    # --- jobs in the queue ------------------------------------------------------------------------

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Ask Slurm for the states of the jobs; report those that ended, and yield the others."""
        if not active_jobs:
            return
        states = await self._states()
        ended = 0
        for info in active_jobs:
            if states is None or not self._settle(info, states):
                yield info
                ended += "missing" in info.aux
            else:
                ended += 1
        first = self.workflow.executor_settings.init_seconds_before_status_checks
        self._interval = first if ended else min(1.5 * self._interval, LONGEST_INTERVAL_S)
        self.next_seconds_between_status_checks = self._interval

    async def _states(self) -> dict[str, str] | None:
        """The state of each job and array task that Slurm knows; None if it does not answer."""
        async with self.status_rate_limiter:
            process = await asyncio.create_subprocess_exec(
                *query(self.get_status_command(), self.run_uuid),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                out, err = await asyncio.wait_for(process.communicate(), timeout=60)
            except TimeoutError:
                process.kill()
                out, err = await process.communicate()
        if process.returncode:
            if not self._silent:
                words = " ".join(err.decode().split()) or "no answer"
                self.logger.warning(f"Slurm does not say how the jobs are: {words}. Waiting.")
            self._silent = True
            return None
        self._silent = False
        return read_states(out.decode())

    def _settle(self, info: SubmittedJobInfo, states: Mapping[str, str]) -> bool:
        """Report a job if it has ended; returns whether it has."""
        state = state_of(str(info.external_jobid), states)
        if state is None or state == "PREEMPTED":
            # A pre-empted job usually returns to the queue.
            info.aux["odd"] = info.aux.get("odd", 0) + 1
            if info.aux["odd"] < ENOUGH_QUERIES:
                return False
        else:
            info.aux.pop("odd", None)
        if state is None:
            return self._settle_forgotten(info)
        if state not in ENDED:
            return False
        if state == "COMPLETED":
            self._succeeded(info)
        elif info.aux["alone"]:
            self._failed(info, state)
        elif not self._settle_by_files(info, state):
            return False
        return True

    def _settle_forgotten(self, info: SubmittedJobInfo) -> bool:
        """The same for a job that Slurm does not know (any more)."""
        by_database = self.get_status_command() == "sacct"
        if by_database and time.monotonic() - info.aux["submitted"] < DATABASE_DELAY_S:
            return False
        work = _work(info.job)
        if work is not None and lease.holder_of(work) is not None:
            return False  # it runs, whatever Slurm knows
        return self._settle_by_files(info, "unknown to Slurm")

    def _settle_by_files(self, info: SubmittedJobInfo, state: str) -> bool:
        """The same for a job whose own end Slurm does not know. Files may appear late."""
        if all(Path(path).exists() for path in info.job.output):
            self._succeeded(info)
            return True
        since = info.aux.setdefault("missing", time.monotonic())
        if time.monotonic() - since < self.workflow.execution_settings.latency_wait:
            return False
        self._failed(info, state)
        return True

    def _succeeded(self, info: SubmittedJobInfo) -> None:
        if not self.workflow.executor_settings.keep_successful_logs and info.aux["alone"]:
            info.aux["slurm_logfile"].unlink(missing_ok=True)
        self.report_job_success(info)

    def _failed(self, info: SubmittedJobInfo, state: str) -> None:
        """Let a job go on that got somewhere, or report its failure."""
        job, step = info.job, _step(info.job)
        work = _work(job)
        stage = _stage(work) if work else ""
        stopped = work is not None and (work / REQUEST).exists()
        further = stage == "resumable" and step > info.aux["step"]
        unwanted = stopped or state == "CANCELLED" or self._ending.is_set()
        if further and not unwanted:
            self.logger.info(
                f"{_name(job)}: Slurm job {info.external_jobid} ended ({state}) after steps "
                f"{info.aux['step']} to {step}; goes on in another Slurm job. This is no retry."
            )
            self._job_submission_executor.submit(self._submit_all, [job])
            return
        if stopped or stage == "broken":
            job.attempt = job.restart_times + 1  # the same again, or not wanted: no retry
        logs = " and ".join(map(str, [*job.log, info.aux["slurm_logfile"]]))
        self._give_up(info, f"Slurm job {info.external_jobid} ended: {state}; see {logs}")

    def _give_up(self, info: SubmittedJobInfo, reason: str) -> None:
        """Report a failure, with a line that `quiet` does not leave out."""
        self.logger.error(f"{_name(info.job)}: {reason}")
        self.report_job_error(info, msg=f"{reason}. ")

    # --- the end ----------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel all jobs, also those about to be submitted."""
        self._ending.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        super().cancel()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel all jobs of this workflow. By their name, for the list may be incomplete."""
        if self._submitted_job_clusters:
            super().cancel_jobs(active_jobs)
        else:
            subprocess.run(
                ["scancel", f"--name={self.run_uuid}"], timeout=60, check=False, capture_output=True
            )

    def shutdown(self) -> None:
        """End the threads."""
        self._ending.set()
        super().shutdown()


def _alike(jobs: Iterable[Any]) -> list[list[Any]]:
    """Jobs of the same rule with the same requests, together. Groups of jobs stay alone."""
    found: dict[Any, list[Any]] = {}
    for job in jobs:
        if job.is_group():
            found[job] = [job]
            continue
        wanted = {k: str(v) for k, v in job.resources.items() if k not in OWN_RESOURCES}
        found.setdefault((job.name, job.threads, *sorted(wanted.items())), []).append(job)
    return list(found.values())


def _name(job: Any) -> str:
    """A job for people to read."""
    names = {} if job.is_group() else job.wildcards
    run = names.get("run_id", "") or names.get("group", "")
    return f"{run} {job.name}".strip()


def _work(job: Any) -> Path | None:
    """The work folder of a job's stage; None for a job that is no stage."""
    work = None if job.is_group() else job.params.get("work")
    return Path(work) if work else None


def _stage(work: Path) -> str:
    """The state of the stage with this work folder."""
    # Loads NumPy, which a dry run does without.
    from ferminet_core.runner.status import stage_state

    return stage_state(work.parent, work.name.removesuffix(".work")).state


def _step(job: Any) -> int:
    """The step of a stage's newest checkpoint; 0 without one."""
    from ferminet_core.storage.checkpoints import steps_in

    work = _work(job)
    return max(steps_in(work / "ckpt"), default=0) if work else 0


def query(command: str | None, name: str) -> list[str]:
    """The command that prints number and state of all jobs of this name."""
    if command == "sacct":
        since = datetime.now() - timedelta(days=30)
        words = ["sacct", "--allocations", "--parsable2", "--noheader", "--format=JobID,State"]
        words += [f"--starttime={since:%Y-%m-%dT%H:00}", "--endtime=now"]
    else:
        words = ["squeue", "--array", "--states=all", "--noheader", "--format=%i|%T"]
    return [*words, f"--name={name}"]


def read_states(printed: str) -> dict[str, str]:
    """States by number of job, from lines such as `12_3|RUNNING` and `13|CANCELLED by 1000`."""
    pairs = (line.split("|") for line in printed.splitlines() if "|" in line)
    return {number.strip(): state.split()[0] for number, state, *_ in pairs if state.strip()}


def state_of(number: str, states: Mapping[str, str]) -> str | None:
    """The state of a job or array task; None if Slurm does not know it.

    Tasks that wait may be listed together, as in `12_[3-5,9%2]`.
    """
    if number in states:
        return states[number]
    array = number.partition("_")[0]
    return next((state for key, state in states.items() if key.startswith(f"{array}_[")), None)

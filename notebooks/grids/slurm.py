"""A grid on SLURM: python notebooks/grids/slurm.py GRID --out FOLDER --jobs 8 --partition gpu --gpus 1

One Dask worker per job, one run at a time in each; FOLDER and this project must lie where every node sees them. Needs
the extra `cluster`. What is not given here is as the site's or your own jobqueue.yaml says. With `--array`, jobs need
no scheduler of Dask's and nobody who waits: a job array, each of whose jobs does its part of the grid. `--script`
prints the job script and submits nothing.
"""

import argparse
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue
from dask.distributed import Client
from dask_jobqueue import SLURMCluster

from pkdlib.engine.progress import say
from pkdlib.sweeps.runner import read_stages, run_sweep

MEMORY, WALLTIME = "16GB", "08:00:00"  # of a job, where neither an option nor a jobqueue.yaml says it
BEFORE_THE_END = timedelta(minutes=5)  # so long before its walltime a job's worker ends by itself


def make_cluster(given: argparse.Namespace) -> SLURMCluster:
    """Jobs of one worker each: `threads` processors, `memory`, and `gpus` of the node's GPUs."""
    walltime = given.walltime or _of_the_site("walltime") or WALLTIME
    options = {"queue": given.partition, "account": given.account}
    directives = [f"--gpus-per-node={given.gpus}"] * bool(given.gpus) + given.sbatch
    lifetime = f"{(_duration(walltime) - BEFORE_THE_END).total_seconds():.0f}s"
    return SLURMCluster(
        cores=1,  # a worker carries out one run at a time
        processes=1,
        job_cpu=given.threads,
        memory=given.memory or _of_the_site("memory") or MEMORY,
        walltime=walltime,
        python=sys.executable,
        job_extra_directives=[*(_of_the_site("job-extra-directives") or []), *directives],
        job_script_prologue=_prologue(given),
        worker_extra_args=[*(_of_the_site("worker-extra-args") or []), "--lifetime", lifetime],
        log_directory=str(given.out / "slurm"),
        **{name: value for name, value in options.items() if value},
    )


def _of_the_site(name: str) -> Any:
    """What a jobqueue.yaml says; None where nothing but dask-jobqueue's own, which is for the smallest of jobs."""
    package = dask.config.collect([str(Path(dask_jobqueue.__file__).parent)], env={})
    value = dask.config.get(f"jobqueue.slurm.{name}", None)
    return value if value != dask.config.get(f"jobqueue.slurm.{name}", None, config=package) else None


def _prologue(given: argparse.Namespace) -> list[str]:
    """The lines of shell that come before a job's command."""
    lines = [*(_of_the_site("job-script-prologue") or []), *given.prologue]
    return lines + ["export HF_HUB_OFFLINE=1"] * given.offline


def _duration(walltime: str) -> timedelta:
    """SLURM's time: days-hours:minutes:seconds, of which the days, or all but the minutes, may be left out."""
    numbers = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+)(?::(\d+))?", walltime)
    if not numbers:
        raise SystemExit(f"--walltime {walltime}: must be as 08:00:00 or 1-12:00:00")
    days, hours, minutes, seconds = (int(number or 0) for number in numbers.groups())
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if length <= 2 * BEFORE_THE_END:
        raise SystemExit(f"--walltime {walltime}: must be over {2 * BEFORE_THE_END}")
    return length


def array_script(given: argparse.Namespace, cluster: SLURMCluster) -> str:
    """The script of a job array: the cluster's own directives and prologue, and `pkd sweep` for a part each."""
    header = [line for line in cluster.job_script().splitlines() if line.startswith("#")]
    command = [sys.executable, "-m", "pkdlib", "sweep", given.grid, "--out", str(given.out), "--workers", "1"]
    command += ["--threads", str(given.threads), "--part"]
    array = f"#SBATCH --array=1-{given.jobs}"
    last = f"exec {shlex.join(command)} $SLURM_ARRAY_TASK_ID/{given.jobs}"
    return "\n".join([*header, array, *_prologue(given), last, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("grid", help="a grid file, or the name of one in notebooks/grids")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs, on a file system of all nodes")
    parser.add_argument("--jobs", type=int, default=4, help="at most so many at once; parts, with --array")
    parser.add_argument("--partition", help="SLURM's partition")
    parser.add_argument("--account", help="SLURM's account")
    parser.add_argument("--gpus", type=int, default=0, help="per job")
    parser.add_argument("--threads", type=int, default=4, help="processors per job, all for its one run")
    parser.add_argument("--memory", help=f"per job; default: {MEMORY}")
    parser.add_argument("--walltime", help=f"per job, {WALLTIME} by default; what it cuts off goes on in the next one")
    parser.add_argument("--sbatch", action="append", default=[], metavar="DIRECTIVE", help="any other, as --qos=long")
    parser.add_argument("--prologue", action="append", default=[], metavar="LINE", help="of shell, as 'module load x'")
    parser.add_argument("--offline", action="store_true", help="nodes without a network: models and data are local")
    parser.add_argument("--array", action="store_true", help="submit a job array and return")
    parser.add_argument("--script", action="store_true", help="print the job script only")
    given = parser.parse_args()
    given.out = given.out.resolve()
    read_stages(given.grid)  # mistakes are told before a job is asked for
    with make_cluster(given) as cluster:
        script = array_script(given, cluster) if given.array else cluster.job_script()
        if given.script:
            say(script)
            return 0
        if given.array:
            return subprocess.run(["sbatch"], input=script, text=True, check=False).returncode
        cluster.adapt(maximum_jobs=given.jobs)
        with Client(cluster) as client:
            executor = client.get_executor(pure=False)
            lost = run_sweep(given.grid, given.out, workers=given.jobs, threads=given.threads, executor=executor)
    return 1 if lost else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # the jobs are given back by now
        sys.exit(130)

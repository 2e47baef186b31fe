"""A grid on SLURM: python notebooks/grids/slurm.py GRID --out FOLDER --jobs 8 --partition gpu --gpus 1

One Dask worker per job, one run at a time in each; FOLDER and this project must lie where every node sees them. Needs
the extra `cluster`. `--script` prints the job script and submits nothing.
"""

import argparse
import sys
from pathlib import Path

from dask.distributed import Client
from dask_jobqueue import SLURMCluster

from pkdlib.engine.progress import say
from pkdlib.sweeps.runner import read_stages, run_sweep


def make_cluster(given: argparse.Namespace) -> SLURMCluster:
    """Jobs of one worker each: `threads` processors, `memory`, and `gpus` of the node's GPUs."""
    return SLURMCluster(
        queue=given.partition,
        account=given.account,
        cores=1,  # a worker carries out one run at a time
        processes=1,
        job_cpu=given.threads,
        memory=given.memory,
        walltime=given.walltime,
        python=sys.executable,
        job_extra_directives=[f"--gpus-per-node={given.gpus}"] if given.gpus else [],
        job_script_prologue=["export HF_HUB_OFFLINE=1"] if given.offline else [],
        log_directory=str(given.out / "slurm"),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("grid", help="a grid file, or the name of one in notebooks/grids")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs, on a file system of all nodes")
    parser.add_argument("--jobs", type=int, default=4, help="at most so many at once")
    parser.add_argument("--partition", help="SLURM's partition")
    parser.add_argument("--account", help="SLURM's account")
    parser.add_argument("--gpus", type=int, default=0, help="per job")
    parser.add_argument("--threads", type=int, default=4, help="processors per job, all for its one run")
    parser.add_argument("--memory", default="16GB", help="per job")
    parser.add_argument("--walltime", default="08:00:00", help="per job; what it cuts off goes on in the next one")
    parser.add_argument(
        "--offline", action="store_true", help="nodes without a network: models and data in local folders"
    )
    parser.add_argument("--script", action="store_true", help="print the job script only")
    given = parser.parse_args()
    given.out = given.out.resolve()
    read_stages(given.grid)  # mistakes are told before a job is asked for
    with make_cluster(given) as cluster:
        if given.script:
            say(cluster.job_script())
            return 0
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

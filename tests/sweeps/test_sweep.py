"""Sweeps with real kernels in real processes: killed and gone on with, failing, on Dask; tiny students throughout."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import psutil
import pytest
from dask.distributed import LocalCluster
from helpers import figures, make_record

from pkdlib import ROOT, load_records
from pkdlib.__main__ import main
from pkdlib.records import save_result
from pkdlib.sweeps import runner
from pkdlib.sweeps.folder import failed, finished
from pkdlib.sweeps.grid import GridError, Then
from pkdlib.sweeps.plan import PlannedRun
from pkdlib.sweeps.worker import check_output

PARAMETERS = """
teacher_dir = ""  # a teacher's folder
methods = ["FT"]  # one
seeds = [0]  # one
num_train_epochs = 6  # of the student
fate = "open"  # what becomes of the run
output_dir = ""  # of the run
"""
SETTINGS = """
import pkdlib
base = pkdlib.validate(pkdlib.DistillConfig, num_hidden_layers=2, num_train_epochs=num_train_epochs, seed=seeds[0])
config = pkdlib.method_config(methods[0], base)
"""
CODE = """
import os, signal
if fate == "raises":
    raise ValueError("this run was meant to fail")
data = pkdlib.reload_data(pkdlib.load_records(teacher_dir)[0])
pkdlib.distill(data, config, teacher_dir, None if fate == "forgets" else output_dir)
if fate == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
"""
GRID = """
notebook: {notebook}
parameters: {{teacher.train_rows: 64, teacher.num_train_epochs: 1}}
grid: {{methods: [FT, KD, PKD-Skip]}}
seeds: [0, 1]
"""


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Of a test that fails, no sweep goes on; what a sweep has started ends with it."""
    yield
    for process in STARTED:
        process.kill()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with a small notebook and its grid."""
    folder = tmp_path_factory.mktemp("sweep")
    parameters = nbformat.v4.new_code_cell(PARAMETERS.strip(), metadata={"tags": ["parameters"]})
    code = [nbformat.v4.new_code_cell(source.strip()) for source in (SETTINGS, CODE)]
    notebook = nbformat.v4.new_notebook(cells=[parameters, *code])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "student.ipynb")
    (folder / "grid.yaml").write_text(GRID.format(notebook=folder / "student.ipynb"))
    return folder


@pytest.fixture(scope="module")
def undisturbed(workshop):
    assert run_to_its_end(workshop, "undisturbed").returncode == 0
    return results(workshop / "undisturbed")


def command(folder, out, *options):
    grid = str(folder / "grid.yaml")
    return [sys.executable, "-m", "pkdlib", "sweep", grid, "--out", str(folder / out), *options]


def start(folder, out, *options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = open(folder / f"{out}.log", "a")  # noqa: SIM115  (the process writes on)
    STARTED.append(
        subprocess.Popen(command(folder, out, *options), stdout=log, stderr=log, env=environment, cwd=folder)
    )
    return STARTED[-1]


def run_to_its_end(folder, out, *options):
    process = start(folder, out, *options)
    process.wait(timeout=400)
    return process


def results(out):
    """What came out of each run, by its folder: all but times and dates."""
    return {path.name: figures(load_records(path)[0]) for path in sorted((out / "runs").iterdir())}


def runs_finished(out):
    """run.json of every finished run and its date: both stay as they are when nothing is repeated."""
    return {path.parent.name: (path.read_text(), path.stat().st_mtime_ns) for path in out.glob("*/*/run.json")}


def processes(parent, name):
    return [child for child in parent.children(recursive=True) if name_of(child) == name]


def name_of(process):
    try:
        return process.name()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def wait_until_finished(out, number):
    wait_for(lambda: len(runs_finished(out)) >= number)


def wait_until_on_its_way(out):
    """Until an epoch has ended, from now on, in a run that has not."""
    now = time.time()
    wait_for(lambda: any(file.stat().st_mtime > now for file in (out / "runs").glob("*/checkpoint.safetensors")))


def end_with_all_it_started(process):
    """SIGKILL the runner alone; what it had started must end by itself."""
    family = process.children(recursive=True)
    process.kill()
    wait_for(lambda: not [child for child in family if child.is_running() and child.status() != "zombie"], 30)


def test_killed_at_four_moments_it_ends_as_if_it_had_not_been(workshop, undisturbed):
    out = workshop / "killed"
    for victim, after in (("pkd-kernel", 1), ("pkd-run", 2), ("pkd-server", 3), (None, 4)):
        before = runs_finished(out)
        process = start(workshop, "killed", "--workers", "2")
        sweep = psutil.Process(process.pid)
        wait_until_finished(out, after)
        wait_until_on_its_way(out)
        if victim:
            processes(sweep, victim)[0].kill()
            wait_until_finished(out, len(runs_finished(out)) + 1)  # it goes on by itself
        end_with_all_it_started(sweep)
        process.wait(timeout=60)
        kept = runs_finished(out)
        assert before.items() <= kept.items()
    assert run_to_its_end(workshop, "killed", "--workers", "2").returncode == 0
    assert kept.items() <= runs_finished(out).items()
    assert len(runs_finished(out)) == 6 + 1  # and the teacher
    assert results(out) == undisturbed
    assert "resumes after epoch" in "".join(path.read_text() for path in out.rglob("log.txt"))


def test_what_has_finished_is_not_repeated_and_what_is_new_is_run(workshop, undisturbed):
    before = runs_finished(workshop / "undisturbed")
    file = workshop / "grid.yaml"
    text = file.read_text()
    file.write_text(text.replace("[0, 1]", "[0]").replace("PKD-Skip", "PKD-Last"))
    try:
        assert run_to_its_end(workshop, "undisturbed").returncode == 0
    finally:
        file.write_text(text)
    after = runs_finished(workshop / "undisturbed")
    assert before.items() <= after.items() and len(after) == len(before) + 1


def test_a_dask_cluster_of_two_processes_one_killed_gives_the_same(workshop, undisturbed):
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        process = start(workshop, "dask", "--scheduler", cluster.scheduler_address)
        wait_for(lambda: len(runs_finished(workshop / "dask")) >= 2)
        worker = wait_for(lambda: processes(psutil.Process(), "pkd-server"))[0].parent()
        worker.kill()
        assert process.wait(timeout=300) == 0
    assert results(workshop / "dask") == undisturbed


def test_failures_are_told_apart_and_leave_the_others_alone(workshop):
    grid = GRID.format(notebook=workshop / "student.ipynb").replace("[0, 1]", "[0]")
    fates = "fate: [fine, raises, dies, forgets]"
    folder = workshop / "failures"
    folder.mkdir()
    (folder / "grid.yaml").write_text(grid.replace("methods: [FT, KD, PKD-Skip]", fates))
    assert run_to_its_end(folder, "out").returncode == 1
    runs = {path.name.split("-")[1]: path for path in (folder / "out" / "runs").iterdir()}
    assert finished(runs["fine"]) and not failed(runs["fine"])
    assert not any(finished(runs[fate]) for fate in ("raises", "dies", "forgets"))
    causes = {fate: failed(runs[fate])["cause"] for fate in ("raises", "dies", "forgets")}
    assert causes == {"raises": "notebook", "dies": "machine", "forgets": "notebook"}
    assert "ValueError: this run was meant to fail" in failed(runs["raises"])["error"]
    assert "kernel died" in failed(runs["dies"])["error"]
    notebook = nbformat.read(runs["dies"] / "notebook.ipynb", as_version=4)
    assert notebook.metadata["papermill"]["exception"] is None  # the notebook itself says that all is well
    assert {cell.metadata["papermill"]["status"] for cell in notebook.cells} == {"completed"}
    assert (runs["dies"] / "result.json").exists()  # complete, and yet the run is no success
    tries = {fate: (path / "log.txt").read_text().count("Kernel is running") for fate, path in runs.items()}
    assert (tries["dies"], tries["raises"]) == (2, 1)  # only what the machine may have done is tried again
    told = (folder / "out.log").read_text()
    assert "2 of 5 runs finished, 3 failed" in told
    assert str(runs["raises"] / "notebook.ipynb") in told and "| ValueError: this run was meant to fail" in told


def test_a_sweep_of_timings_ends_well(tmp_path):
    sizes = "{layers: [4, 2], hidden_size: 64, length: 16, repeats: 2}"
    text = f"notebook: 05_speed_benchmark\nparameters: {sizes}\ngrid: {{batch_size: [2]}}\n"
    (tmp_path / "grid.yaml").write_text(text)
    assert run_to_its_end(tmp_path, "out").returncode == 0, (tmp_path / "out.log").read_text()
    (run,) = (tmp_path / "out" / "runs").iterdir()
    assert finished(run) and (run / "speed.json").exists() and not (run / "result.json").exists()
    assert "1 of 1 runs finished, 0 failed" in (tmp_path / "out.log").read_text()


def test_what_a_notebook_leaves_is_whole(tmp_path):
    for name in ("parameters.json", "log.txt", "notebook.ipynb", ".lock"):  # the sweep's own
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="wrote nothing into output_dir"):
        check_output(tmp_path)
    (tmp_path / "similarity.json").touch()
    check_output(tmp_path)
    save_result(make_record(), tmp_path / "student")
    check_output(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoint.safetensors").touch()
    with pytest.raises(ValueError, match=r"the training in .*/other did not end"):
        check_output(tmp_path)
    (tmp_path / "other" / "checkpoint.safetensors").rename(tmp_path / "other" / "result.json")
    with pytest.raises(ValueError, match=r"other/result.json, record 1: "):
        check_output(tmp_path)


def test_students_of_a_teacher_that_failed_are_not_tried(workshop):
    folder = workshop / "untaught"
    folder.mkdir()
    text = GRID.replace("64", "64, teacher.mixed_precision: fp16").format(notebook=workshop / "student.ipynb")
    (folder / "grid.yaml").write_text(text)
    ended = run_to_its_end(folder, "out").returncode
    told = (folder / "out.log").read_text()
    assert ended == 1, told
    assert told.count("not run: its teacher failed") == 6 and not (folder / "out" / "runs").exists()
    assert "fp16" in told


def test_what_an_executor_cannot_do_is_a_failure_and_no_endless_loop(workshop, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "teachers").write_text("in the way of the teachers' folder")
    with ThreadPoolExecutor(1) as executor:
        lost = runner.run_sweep(workshop / "grid.yaml", tmp_path / "out", executor=executor)
    assert len(lost) == 6 + 1
    told = capsys.readouterr().out
    assert "FAILED train_rows 64, num_train_epochs 1 (machine)" in told and "Error: " in told
    assert told.count("not run: its teacher failed") == 6


def test_a_dry_run_lists_the_runs_and_the_time_left(workshop, undisturbed, capsys):
    arguments = ["sweep", str(workshop / "grid.yaml"), "--dry-run", "--workers", "2", "--out"]
    assert main([*arguments, str(workshop / "undisturbed")]) == 0
    told = capsys.readouterr().out
    assert told.count(": finished, ") == 7 and "0 runs left" in told
    assert main([*arguments, str(workshop / "nowhere")]) == 0
    told = capsys.readouterr().out
    assert told.count(": to do") == 7 and "no estimate" in told
    assert not (workshop / "nowhere").exists()


def test_the_second_stage_keeps_the_highest_mean_over_seeds(tmp_path):
    runs = []
    for temperature, scores in ((5.0, (0.9, 0.5)), (10.0, (0.8, 0.7)), (20.0, (0.6, 0.6))):
        for seed, score in enumerate(scores):
            axes = {"temperature": temperature, "learning_rate": 1e-3, "seed": seed}
            runs.append(PlannedRun(tmp_path, {}, axes, f"{temperature}-{seed}", f"runs/{temperature}-{seed}"))
            save_result(make_record(metrics={"dev": {"accuracy": score}}), tmp_path / runs[-1].folder)
    then = Then(keep=["temperature"])
    assert runner.best_values(runs, then, tmp_path) == {"temperature": 10.0}
    with pytest.raises(GridError, match=r"then\.best = 'test_f1': no column of the results"):
        runner.best_values(runs, Then(keep=["temperature"], best="test_f1"), tmp_path)


def test_a_teacher_s_own_score_does_not_choose_among_its_students_settings(tmp_path):
    runs = []
    for temperature, teacher, student in ((5.0, 0.99, 0.5), (10.0, 0.6, 0.7)):
        runs.append(PlannedRun(tmp_path, {}, {"temperature": temperature}, f"{temperature}", f"runs/{temperature}"))
        for method, score in (("teacher", teacher), ("KD", student)):
            record = make_record(method, method=method, metrics={"dev": {"accuracy": score}})
            save_result(record, tmp_path / runs[-1].folder / method)
    assert runner.best_values(runs, Then(keep=["temperature"]), tmp_path) == {"temperature": 10.0}
    for run in runs:
        shutil.rmtree(tmp_path / run.folder / "KD")
    assert runner.best_values(runs, Then(keep=["temperature"]), tmp_path) == {"temperature": 5.0}  # teachers alone


def test_the_second_stage_is_run_with_what_was_best_in_the_first(workshop):
    folder = workshop / "stages"
    folder.mkdir()
    text = GRID.format(notebook=workshop / "student.ipynb").replace("[0, 1]", "[0]")
    text = text.replace("methods: [FT, KD, PKD-Skip]", "num_train_epochs: [1, 8]")
    (folder / "grid.yaml").write_text(text + "then: {keep: [num_train_epochs], grid: {methods: [KD]}}\n")
    assert run_to_its_end(folder, "out").returncode == 0
    records = [load_records(path)[0] for path in (folder / "out" / "runs").iterdir()]
    first = {r.config["num_train_epochs"]: r.metrics["dev"]["accuracy"] for r in records if r.method == "FT"}
    (second,) = [record for record in records if record.method == "KD"]
    assert second.config["num_train_epochs"] == max(sorted(first), key=first.get)  # of equals the first
    assert (
        f"the best dev_accuracy: num_train_epochs {second.config['num_train_epochs']}"
        in (folder / "out.log").read_text()
    )
    planned = json.loads((folder / "out" / "sweep.json").read_text())
    assert len(planned["runs"]) == 3 and len(planned["teachers"]) == 1


def slurm_script(folder, *options, site="{}"):
    """The lines of the job script that would be submitted; site: a jobqueue.yaml."""
    (folder / "jobqueue.yaml").write_text(site)
    return subprocess.run(
        [sys.executable, ROOT / "notebooks" / "grids" / "slurm.py", "smoke", "--out", folder, "--script", *options],
        capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DASK_CONFIG": str(folder / "jobqueue.yaml")},
    ).stdout.rstrip().splitlines()  # fmt: skip


def test_the_slurm_script_asks_for_what_a_run_needs(tmp_path):
    needs = ("--partition", "gpu", "--gpus", "1", "--threads", "6", "--memory", "24GB", "--walltime", "02:00:00")
    lines = slurm_script(tmp_path, *needs, "--sbatch=--qos=long", "--prologue", "module load cuda")
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    wanted = {"-p gpu", "--cpus-per-task=6", "--gpus-per-node=1", "-t 02:00:00", "-n 1", "--qos=long"}
    assert wanted <= set(directives)
    assert any(line.startswith("--mem=2") for line in directives)
    assert any(str(tmp_path / "slurm") in line for line in directives)
    assert "module load cuda" in lines
    command = next(line for line in lines if "--nthreads 1" in line)
    assert sys.executable in command
    assert "--lifetime 6900s" in command  # five minutes before the end


def test_the_slurm_script_keeps_what_the_site_says(tmp_path):
    site = """
jobqueue:
  slurm:
    queue: short
    memory: 40GB
    walltime: 1-00:00:00
    job-extra-directives: ["--exclusive"]
    job-script-prologue: ["module load python"]
    worker-extra-args: ["--resources", "GPU=1"]
"""
    lines = slurm_script(tmp_path, "--sbatch=--gres=gpu:1", "--offline", site=site)
    wanted = ["-p short", "-t 1-00:00:00", "--exclusive", "--gres=gpu:1"]
    assert {f"#SBATCH {line}" for line in wanted} <= set(lines) and any("--mem=38G" in line for line in lines)
    assert lines.index("module load python") + 1 == lines.index("export HF_HUB_OFFLINE=1")
    assert any("--resources GPU=1 --lifetime 86100s" in line for line in lines)
    assert "#SBATCH -t 08:00:00" in slurm_script(tmp_path) and "#SBATCH -p short" not in slurm_script(tmp_path)


def test_a_slurm_array_needs_no_scheduler(tmp_path):
    lines = slurm_script(tmp_path, "--array", "--jobs", "3", "--gpus", "1", "--prologue", "module load cuda")
    assert {"#SBATCH --array=1-3", "#SBATCH --gpus-per-node=1", "#SBATCH -n 1"} <= set(lines)
    command = f"{sys.executable} -m pkdlib sweep smoke --out {tmp_path} --workers 1 --threads 4 --part"
    assert lines[-2:] == ["module load cuda", f"exec {command} $SLURM_ARRAY_TASK_ID/3"]
    assert not any("dask" in line for line in lines if not line.startswith("#SBATCH"))


def test_parts_of_a_sweep_at_once_are_the_whole(workshop, undisturbed):
    parts = [start(workshop, "parts", "--workers", "1", "--threads", "1", "--part", f"{part}/2") for part in (1, 2)]
    assert [part.wait(timeout=400) for part in parts] == [0, 0]
    assert results(workshop / "parts") == undisturbed
    told = (workshop / "parts.log").read_text()
    assert told.count("4 of 4 runs finished, 0 failed") == 2  # three of six, and the teacher
    teachers = [log.read_text() for log in workshop.glob("parts/teachers/*/log.txt")]
    assert len(teachers) == 1 and teachers[0].count("epoch 1/") == 1  # made once, though both parts need it

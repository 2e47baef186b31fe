"""Mutation testing (`make mutants`): changes pkdlib in one small place at a time; the tests must notice each change.

Every mutant is a copy of one file with one change. A child process runs the tests of that file on it; the mutant
survives if they pass. Own code, because mutmut leaves out constants, class bodies and decorated functions, and
cosmic-ray starts Python anew for every mutant, which costs more than most tests here.
"""

import argparse
import ast
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWN = ROOT / "tests" / "mutants.json"  # survivors that have been judged, each with why no test kills it
EQUIVALENT = "Equivalent: "  # how the reason begins of one that no test could kill; the score leaves it out
STATE = ROOT / "build" / "mutants.json"  # what is known of each mutant, so that a run that is ended goes on
RECORD = ROOT / "data" / "results" / "mutants.json"
# A file of pkdlib -> its tests, the fastest first.
TESTS = {
    "losses": ["test_losses"],
    "layer_maps": ["test_layer_maps"],
    "objectives": ["test_objectives"],
    "data": ["test_data"],
    "targets": ["test_targets"],
    "analysis/statistics": ["analysis/test_statistics"],
    "analysis/similarity": ["analysis/test_similarity"],
    "analysis/comparisons": ["analysis/test_comparisons"],
    "engine/checkpoints": ["engine/test_checkpoint_file"],
    "engine/batches": ["test_data", "test_loop"],
    "engine/checks": ["engine/test_checks"],
    "engine/arrays": ["engine/test_arrays"],
    "loop": ["test_loop", "test_objectives", "test_training", "engine/test_checkpoints"],
    "tasks": ["test_tasks"],
    "config": ["test_config"],
}
CHOSEN = "not two_thousand and not large_file and not killed_run and not killed_processes"  # they would cost an hour
OTHER_COMPARISON = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OTHER_OPERATION = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
OTHER_NAME = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "mean", "mean": "sum", "sorted": "list"}
SYMMETRIC = ("min", "max", "minimum", "maximum")  # functions whose arguments may be swapped


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the lines before and after it, and the whole changed source."""

    file: str
    line: int
    before: str
    after: str
    source: bytes

    @property
    def key(self) -> str:
        return f"{self.file}: {self.before} -> {self.after}"


# ---------------------------------------------------------------------------------------------- the changes
def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each part of the node that can be changed, and the text in its place."""
    match node:
        case ast.Compare(left, [*operators], [*others]):
            for place, operator in enumerate(operators):
                other = [*operators[:place], OTHER_COMPARISON[type(operator)](), *operators[place + 1 :]]
                yield node, ast.unparse(ast.Compare(left, other, others))
        case ast.BinOp(left, operator, right) if type(operator) in OTHER_OPERATION:
            yield node, f"({ast.unparse(ast.BinOp(left, OTHER_OPERATION[type(operator)](), right))})"
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield node, f"({ast.unparse(ast.BoolOp(other, values))})"
            for place in range(len(values)):
                yield node, f"({ast.unparse(ast.BoolOp(operator, [*values[:place], *values[place + 1 :]]))})"
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.Constant(bool() as value):
            yield node, str(not value)
        case ast.Constant(int() | float() as value):
            yield node, str(value + 1)
        case ast.Call(function, arguments, keywords):
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
            if name in OTHER_NAME:
                yield function, ast.unparse(function).removesuffix(name) + OTHER_NAME[name]
            plain = not any(isinstance(one, ast.Starred) for one in arguments[:2])
            if len(arguments) > 1 and plain and name not in SYMMETRIC:
                swapped = [arguments[1], arguments[0], *arguments[2:]]
                yield node, ast.unparse(ast.Call(function, swapped, keywords))
            for place in range(len(keywords)):
                yield node, ast.unparse(ast.Call(function, arguments, [*keywords[:place], *keywords[place + 1 :]]))
        case ast.Return(value) if value is not None:
            yield node, "return None"
        case ast.Expr(ast.Call()) | ast.Raise() | ast.AugAssign():
            yield node, "pass"
        case ast.Assign([ast.Subscript() | ast.Attribute(), *_]):
            yield node, "pass"
        case ast.Assign([ast.Name(name)], value) if any(getattr(part, "id", "") == name for part in ast.walk(value)):
            yield node, "pass"
    tests = [node.test] if isinstance(node, ast.If | ast.IfExp | ast.While) else getattr(node, "ifs", [])
    yield from ((test, f"(not ({ast.unparse(test)}))") for test in tests)


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it, but for annotations and decorators, which say what is allowed and compute nothing."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from parts(child)


def mutants(file: str) -> list[Mutant]:
    """Every mutant of the file, in the order of its lines."""
    source = (ROOT / "pkdlib" / f"{file}.py").read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    made: dict[str, Mutant] = {}
    for part, text in (change for node in parts(ast.parse(source)) for change in changes(node)):
        first, last = part.lineno - 1, part.end_lineno
        start, end = starts[first] + part.col_offset, starts[last - 1] + part.end_col_offset
        before, after = source[starts[first] : starts[last]], source[:start] + text.encode() + source[end:]
        changed = after[starts[first] : starts[last] + len(after) - len(source)]
        shown = [" ".join(one.decode().split()) for one in (before, changed)]
        try:
            compile(after, file, "exec")
        except SyntaxError:
            continue
        mutant = Mutant(file, part.lineno, *shown, after)
        if mutant.after != mutant.before:
            made.setdefault(mutant.key, mutant)
    return sorted(made.values(), key=lambda one: one.line)


# ------------------------------------------------------------------------------------------------- the runs
def run_tests(*arguments: str) -> int:
    off = [word for name in ("cacheprovider", "xdist", "unraisableexception") for word in ("-p", f"no:{name}")]
    return int(pytest.main(["-x", "-q", "-k", CHOSEN, "--assert=plain", "--hypothesis-seed=0", *off, *arguments]))


def test_files(file: str) -> list[str]:
    return [f"tests/{name}.py" for name in TESTS[file]]


def passes(file: str, seconds: float) -> bool:
    """Whether a file's tests pass in the current folder, in a child process; one that takes longer does not."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        os._exit(min(run_tests(*test_files(file)), 1))
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def make_copy(folder: Path, files: Iterable[str]) -> Path:
    """A copy of the library and its tests; all else is linked to."""
    for path in ROOT.iterdir():
        if path.name in ("pkdlib", "tests"):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name not in ("runs", "build", ".git"):
            (folder / path.name).symlink_to(path)
    # The packages that the tests need are imported once, here; pkdlib and the tests anew by every child.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    sys.path[0] = str(folder)  # in place of this script's folder
    os.chdir(folder)
    before = set(sys.modules)
    for file in files:
        run_tests("--collect-only", *test_files(file))
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    gc.freeze()
    return folder


def run(chosen: list[Mutant], state: dict[str, str]) -> None:
    """Judge each mutant: "killed" or "survived" in the state, which is written after each."""
    with tempfile.TemporaryDirectory() as folder:
        files = list(dict.fromkeys(one.file for one in chosen))
        copy = make_copy(Path(folder), files)
        for file in files:
            path = copy / "pkdlib" / f"{file}.py"
            original, started = path.read_bytes(), time.monotonic()
            if not passes(file, 600):
                sys.exit(f"{file}: its tests fail without any mutant")
            limit = 10 + 3 * (time.monotonic() - started)
            for one in (one for one in chosen if one.file == file and state.get(one.key) != "killed"):
                path.write_bytes(one.source)
                state[one.key] = "survived" if passes(file, limit) else "killed"
                STATE.parent.mkdir(exist_ok=True)
                STATE.write_text(json.dumps(state, indent=1))
                if state[one.key] == "survived":
                    print(f"{file}.py:{one.line}: {one.before}\n    -> {one.after}", flush=True)
            path.write_bytes(original)
            print(f"{file}: {Counter(state[one.key] for one in chosen if one.file == file)}", flush=True)


def summary(chosen: list[Mutant], state: dict[str, str], judged: dict[str, str]) -> dict[str, dict[str, float]]:
    """Per file: its mutants, those that are equivalent, those killed, and the percentage killed of the others."""
    files = {}
    for file in dict.fromkeys(one.file for one in chosen):
        own = [one for one in chosen if one.file == file]
        killed = sum(state[one.key] == "killed" for one in own)
        left = [one.key for one in own if state[one.key] != "killed"]
        equivalent = sum(judged.get(key, "").startswith(EQUIVALENT) for key in left)  # one that was killed is not
        score = round(100 * killed / max(1, len(own) - equivalent), 1)
        files[file] = {"mutants": len(own), "equivalent": equivalent, "killed": killed, "score": score}
        print(f"{file:24}{len(own):6} mutants{equivalent:5} equivalent{killed:6} killed{score:7} %")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", help="files of pkdlib, such as losses; all of the table if none is named")
    parser.add_argument("--most", type=int, default=0, help="at most so many mutants of a file, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="keep what an earlier run killed: go on, or try new tests")
    parser.add_argument(
        "--record", action="store_true", help=f"write the files' numbers into {RECORD.relative_to(ROOT)}"
    )
    given = parser.parse_args()
    everything = {one.key: one for file in TESTS for one in mutants(file)}
    judged: dict[str, str] = json.loads(KNOWN.read_text())
    chosen = []
    for file in given.files or TESTS:
        own = [one for one in everything.values() if one.file == file]
        drawn = random.Random(f"{given.seed} {file}").sample(own, given.most) if 0 < given.most < len(own) else own
        chosen += sorted(drawn, key=lambda one: one.line)
    state = json.loads(STATE.read_text()) if given.again and STATE.exists() else {}
    print(f"{len(chosen)} of {len(everything)} mutants", flush=True)
    run(chosen, state)
    files = summary(chosen, state, judged)
    survivors = [one for one in chosen if state[one.key] == "survived"]
    problems = [f"no such mutant any more: {key}" for key in sorted(judged.keys() - everything.keys())]
    problems += [f"judged, and yet killed: {one.key}" for one in chosen if one.key in judged and one not in survivors]
    problems += [f"not judged in {KNOWN.name}: {one.key}" for one in survivors if one.key not in judged]
    if given.record:
        record = json.loads(RECORD.read_text()) if RECORD.exists() else {"files": {}, "survivors": []}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        made = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit, "seed": given.seed}
        record["files"] |= {file: numbers | made for file, numbers in files.items()}
        others = [line for line in record["survivors"] if line["file"] not in files]
        lines = [{"file": one.file, "before": one.before, "after": one.after} for one in survivors]
        reasons = [{"why": judged.get(one.key, "not judged")} for one in survivors]
        record["survivors"] = others + [line | why for line, why in zip(lines, reasons, strict=True)]
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    sys.exit("\n".join(problems) or None)


if __name__ == "__main__":
    main()

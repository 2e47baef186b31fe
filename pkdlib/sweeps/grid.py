"""Grid files: which notebook runs with which values, read strictly; a mistake is one line with file and key."""

from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pkdlib.engine.configs import complaints
from pkdlib.engine.files import ROOT

GRIDS = ROOT / "notebooks" / "grids"
SEED = "seed"  # the axis that `seeds` makes
MOST = 10_000  # combinations of one stage, those that are excluded too
RESERVED = dict.fromkeys((SEED, "seeds"), "seeds have a key of their own: seeds: [0, 1, 2]")
RESERVED["output_dir"] = "every run has a folder of its own; leave it out"


class GridError(ValueError):
    """A grid with one or more mistakes, a line each."""


class Stage(BaseModel):
    """Runs that can be planned at once: fixed values, every combination of axes, for every seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, Any] = {}  # the same in all runs
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}  # name -> values; every combination is run
    together: list[dict[str, Any]] = Field([], alias="list")  # values that change together, an entry each
    exclude: list[dict[str, Any]] = []  # combinations that are left out
    seeds: list[Annotated[int, Field(ge=0, lt=2**32, strict=True)]] = []

    @property
    def places(self) -> list[tuple[str, str]]:
        """Every parameter, and where in the file it stands."""
        parts = {"parameters": self.parameters, "grid": self.grid, "list": (self.together or [{}])[0]}
        return [(name, f"{key}.{name}") for key, part in parts.items() for name in part]

    def combinations(self) -> Iterator[dict[str, Any]]:
        """The axes' values of every run, its seed last."""
        for entry, *values in product(self.together or [{}], *self.grid.values()):
            axes = entry | dict(zip(self.grid, values, strict=True))
            if not any(unwanted.items() <= axes.items() for unwanted in self.exclude):
                yield from ({**axes, SEED: seed} for seed in self.seeds) if self.seeds else (axes,)


class Then(Stage):
    """A second stage, which keeps what was best in the first."""

    keep: list[str] = Field(min_length=1)  # axes of the first stage, held at the best run's values
    best: str = "dev_accuracy"  # a score, named split_metric; the highest mean over seeds


class Grid(Stage):
    notebook: str  # of the project, by its name, or a path
    then: Then | None = None


def grid_path(name: str | Path) -> Path:
    """A file by its path, or one that is shipped by its name; GridError lists those."""
    if not isinstance(name, str | Path) or not str(name):
        raise GridError(f"grid = {name!r}: must be the path of a grid file, or the name of one that is shipped")
    shipped = {path.stem: path for path in sorted(GRIDS.glob("*.yaml"))}
    path = Path(name) if Path(name).is_file() else shipped.get(str(name))
    if path is None:
        raise GridError(f"{name}: no such grid file; shipped are {', '.join(shipped)}")
    return path


def read_grid(path: Path) -> Grid:
    """The grid of a file; GridError with a line per mistake, each with the file and the key."""
    try:
        grid = Grid.model_validate(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))
        lines = [*_mistakes(grid)]
    except MarkedYAMLError as error:  # a key that stands there twice, too
        line, problem = error.problem_mark.line if error.problem_mark else 0, str(error.problem)
        lines = [f"line {line + 1}: no YAML: {problem.partition(' with value ')[0]}"]
    except (YAMLError, UnicodeDecodeError) as error:  # a character that no text holds
        lines = [f"no text in UTF-8: {str(error).splitlines()[0]}"]
    except RecursionError:
        lines = ["nested too deeply"]
    except ValidationError as error:
        lines = complaints(Grid, error)
    if lines:
        raise GridError("\n".join(f"{path.name}: {line}" for line in lines))
    return grid


def _mistakes(stage: Stage, seeds: int = 1) -> Iterator[str]:
    """A line per mistake; seeds: of the first stage, for a second one without any of its own."""
    seeds = len(stage.seeds) or seeds
    if (number := prod(map(len, stage.grid.values())) * (len(stage.together) or 1) * seeds) > MOST:
        yield f"grid: stands for {number:,} runs: must be at most {MOST:,}"  # and nothing is expanded
        return
    axes = [name for name, place in stage.places if not place.startswith("parameters.")]
    places: dict[str, str] = {}
    for name, place in stage.places:
        if (first := places.setdefault(name, place)) != place:
            yield f"{place}: also in {first}; a name may stand in one place"
        if name in RESERVED:
            yield f"{place}: {RESERVED[name]}"
    for number, entry in enumerate(stage.together):
        if set(entry) != set(stage.together[0]) or not entry:
            yield f"list.{number} = {entry!r}: every entry must name the same parameters, as the first one does"
        elif entry in stage.together[:number]:
            yield f"list.{number} = {entry!r}: stands there twice"
    lists = {f"grid.{name}": values for name, values in stage.grid.items()} | {"seeds": stage.seeds}
    for name, values in lists.items():
        if repeated := [value for number, value in enumerate(values) if value in values[:number]]:
            yield f"{name} = {values!r}: {repeated[0]!r} stands there twice"
    everything = stage.model_copy(update={"exclude": [], "seeds": []})
    for number, unwanted in enumerate(stage.exclude):
        if not unwanted or set(unwanted) - set(axes):
            yield f"exclude.{number} = {unwanted!r}: must name axes: {', '.join(axes) or 'there is none'}"
        elif not any(unwanted.items() <= values.items() for values in everything.combinations()):
            yield f"exclude.{number} = {unwanted!r}: no combination is like that"
    if not any(True for _ in stage.combinations()):
        yield "exclude: leaves no run"
    if then := getattr(stage, "then", None):
        yield from (f"then.{line}" for line in _mistakes(then, seeds))
        yield from (f"then.keep = {name!r}: no axis of the first stage" for name in then.keep if name not in axes)
        again = [place for name, place in then.places if name in then.keep]
        yield from (f"then.{place}: its value is kept; a name may stand in keep or here" for place in again)

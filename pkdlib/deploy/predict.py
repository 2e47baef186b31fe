"""Labels for the rows of a file."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pkdlib.data import encode_split
from pkdlib.deploy.students import Student, load_student
from pkdlib.deploy.tables import check_ending, check_rows, read_rows, write_rows
from pkdlib.engine.configs import whole


def predict_file(
    student: str | Path, file: str | Path, text_columns: Sequence[str], out: str | Path, batch_size: int = 128
) -> Path:
    """Write the rows of `file`, in order and with every column, with a student's predictions to `out`; its path.

    Added are `label_predicted`, the class's name, and `probability_NAME` for each class; of a regression, which has
    one output, `value_predicted`. student: as for `load_student`. text_columns: one, or two for pairs. The formats
    are those of the endings .csv, .tsv, .jsonl and .parquet.

    Raises ValueError or OSError with one line, before anything is predicted, when something does not fit.
    """
    file, out = Path(file), Path(out)
    check_ending("out", out)
    if out.resolve() == file.resolve():
        raise ValueError(f"out = {str(out)!r}: must be another file than the one that is read")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out = {str(out)!r}: must lie in a folder that is there")
    whole("batch_size", batch_size, 1)
    rows, texts = read_rows(file, text_columns)
    check_rows(rows, out)
    model = load_student(student)
    check_columns(model, text_columns, student)
    regression = len(model.names) == 1
    added = [f"probability_{name}" for name in model.names]
    added = ["value_predicted"] if regression else ["label_predicted", *added]
    if there := [name for name in added if name in rows]:
        raise ValueError(f"{file}: has a column {there[0]!r} already: rename it, as that is added")
    logits = model.predict(encode_split(texts, model.tokenizer, model.max_length), batch_size)
    values = (logits if regression else logits.softmax(dim=-1)).T.tolist()
    labels = [] if regression else [[model.names[index] for index in logits.argmax(dim=-1).tolist()]]
    columns = zip(added, [*labels, *values], strict=True)
    write_rows(pd.concat([rows, pd.DataFrame(dict(columns))], axis=1), out)
    return out


def check_columns(model: Student, text_columns: Sequence[str], student: str | Path) -> None:
    """ValueError unless there are as many columns of texts as the student was trained on."""
    if model.columns and len(model.columns) != len(text_columns):
        trained = f"{student} was trained on {len(model.columns)}, {' and '.join(model.columns)}"
        raise ValueError(f"text_column = {', '.join(text_columns)}: {trained}: must be as many columns")

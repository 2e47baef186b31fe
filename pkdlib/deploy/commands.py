"""The commands `predict` and `export` and their options. The work is in predict and export, imported when wanted."""

import argparse
from pathlib import Path
from typing import Any


def register(commands: argparse._SubParsersAction) -> None:
    """Add the two commands; each sets `run`, a function of its options."""
    text = "label every row of a CSV, TSV, JSON-lines or parquet file, and keep all of its columns"
    parser = commands.add_parser("predict", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("student", help="a classifier's folder or hub id; or an exported folder, or its .onnx file")
    parser.add_argument("file", type=Path, help="the rows: a .csv, .tsv, .jsonl or .parquet file")
    _add_columns(parser, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="of any of these endings, too")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="rows at once; default: 128")
    parser.set_defaults(run=_predict)

    text = "write a classifier as an ONNX file, checked against the model, with its tokenizer"
    parser = commands.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("student", help="a classifier's folder or hub id")
    parser.add_argument("--onnx", dest="out", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--int8", action="store_true", help="add a file with weights of 8 bits")
    text = "rows to check with; default: the dev rows of the classifier's record, else a few example texts"
    parser.add_argument("--check", type=Path, metavar="FILE", help=text)
    _add_columns(parser, required=False)
    parser.set_defaults(run=_export)


def _add_columns(parser: argparse.ArgumentParser, required: bool) -> None:
    text = "the file's column of texts; give the option twice for pairs"
    options = {"dest": "text_columns", "action": "append", "metavar": "NAME", "default": None if required else []}
    parser.add_argument("--text-column", required=required, help=text, **options)


def _predict(**options: Any) -> None:
    from pkdlib.deploy.predict import predict_file

    print(f"The predictions: {predict_file(**options)}")


def _export(**options: Any) -> None:
    from pkdlib.deploy.export import export_onnx, table

    print(table(export_onnx(**options)))
    print(f"The export: {options['out']}")

"""export: the network of an artefact as a file for deployment."""

from __future__ import annotations

import argparse
import os

from ecc.api.deployment.exporting import ANY, FORMATS, export
from ecc.cli.command import Command, Outcome
from ecc.cli.progress import ProgressLine
from ecc.zoo.loading import load_model

__all__ = ["COMMANDS"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artefact", metavar="DIR", help="folder that ecc compress or ecc stage has written")
    parser.add_argument(
        "--format", choices=FORMATS, help="default: what FILE ends in, .onnx, .pt2 or .safetensors (a state dict)"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="written once it was run and its outputs compared; only a file of the same kind is replaced. A state "
        "dict has a .json file beside it, and ONNX with more than 2 GB of weights a .data file",
    )
    parser.add_argument("--model", metavar="MODEL", help="the dense network, where the artefact's own name fails")
    parser.add_argument(
        "--batch",
        type=_batch,
        metavar=f"N|{ANY}",
        help=f"examples of an inference; {ANY} for any number, refused where the network does not allow it (default: "
        "any where the network allows it, else that of the artefact)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference of outputs, relative to the largest one (default 0.0001; 0.03 in half precision; "
        "0.1 on int8)",
    )
    onnx = parser.add_argument_group("ONNX")
    onnx.add_argument("--opset", type=int, metavar="N", help="version of the operators (default: the exporter's)")
    kinds = onnx.add_mutually_exclusive_group()
    kinds.add_argument(
        "--int8",
        action="store_true",
        default=None,
        help="layers multiply bytes (default where the last stage was fixed-point)",
    )
    kinds.add_argument("--float", action="store_false", dest="int8", help="weights decoded to float in any case")
    onnx.add_argument(
        "--data", metavar="DATA", help="what sets the ranges of int8 (default: what the artefact was trained on)"
    )
    onnx.add_argument("--data-dir", metavar="DIR", help="folder of the data sets; default: $ECC_DATA")


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    found = export(
        arguments.artefact,
        arguments.out,
        format=arguments.format,
        model=None if arguments.model is None else load_model(arguments.model).module,
        batch=arguments.batch,
        opset=arguments.opset,
        int8=arguments.int8,
        data=arguments.data,
        data_dir=arguments.data_dir or os.environ.get("ECC_DATA"),
        tolerance=arguments.tolerance,
        seed=arguments.seed,
        progress=progress,
    )
    return Outcome(found.to_json(), str(found))


def _batch(text: str) -> int | str:
    """A number of examples, or the word for any."""
    if text != ANY and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, or {ANY}, got {text!r}")
    return text if text == ANY else int(text)


COMMANDS = (
    Command(
        "export",
        "ecc export resnet20-half --format onnx --out resnet20.onnx",
        _arguments,
        _run,
    ),
)
"""What ``ecc export`` takes."""

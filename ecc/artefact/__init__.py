"""Artefact: the folder that a compression writes; all that is needed to load, check and export the result.

manifest.json        what was made, of what, how, where, and the SHA-256 of every other file
weights.safetensors  state of the compact network; tied tensors once, their other names in the manifest
weights.ecz          in the place of the former: the state as secondary stages have packed it
history.csv          one row per epoch of the solve
cost-METRIC.json     the cost models that the budgets were set on
report.html, *.png   for people
"""

from ecc.artefact.manifest import FileRecord, Manifest
from ecc.artefact.reading import PACKED, Artefact, inspect, read
from ecc.artefact.stages import StageRecord
from ecc.artefact.writing import check_target, replace_files, save, save_packed

__all__ = [
    "PACKED",
    "Artefact",
    "FileRecord",
    "Manifest",
    "StageRecord",
    "check_target",
    "inspect",
    "read",
    "replace_files",
    "save",
    "save_packed",
]

"""Artefact: the folder that a compression writes; all that is needed to load, check and export the result.

manifest.json        what was made, of what, how, where, and the SHA-256 of every other file
weights.safetensors  state of the compact network; tied tensors once, their other names in the manifest
history.csv          one row per epoch of the solve
cost-METRIC.json     the cost models that the budgets were set on
report.html, *.png   for people
"""

from ecc.artefact.folder import Artefact, check_target, inspect, read, replace_files, save
from ecc.artefact.manifest import FileRecord, Manifest

__all__ = [
    "Artefact",
    "FileRecord",
    "Manifest",
    "check_target",
    "inspect",
    "read",
    "replace_files",
    "save",
]

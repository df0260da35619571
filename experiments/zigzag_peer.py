"""Layers mapped by ZigZag at the least energy, as a program of its own: it has many requirements.

    python -m venv peer && peer/bin/pip install "zigzag-dse==3.9.1" six
    peer/bin/python experiments/zigzag_peer.py < cases.json > results.json

A case is {"side": 16, "buffer": words, "layer": [height, width, kernel_h, kernel_w, channels, filters, stride]} without
padding. The machine keeps weights in place: output channels on columns, input channels on rows, a weight and an output
register in each element, one buffer, DRAM; an access to a register and a multiply-accumulate cost 1, to the buffer 6,
to DRAM 200, for each word of 8 bits. Nothing of ecc is imported here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORD = 8  # bits


def _memory(operands: list[str], words: int, cost: float, ports: dict[str, list[str]], served: list[str]) -> Any:
    kinds = {name: "read" if name[0] == "r" else "write" for name in ports}
    return {
        "size": words * _WORD, "r_cost": cost, "w_cost": cost, "area": 0, "latency": 1, "operands": operands,
        "auto_cost_extraction": False, "served_dimensions": served,
        "ports": [
            {"name": name, "type": kinds[name], "bandwidth_min": _WORD, "bandwidth_max": _WORD, "allocation": given}
            for name, given in ports.items()
        ],
    }  # fmt: skip


def _machine(side: int, buffer: int) -> dict[str, Any]:
    every = {"r_port_1": ["I1, tl", "I2, tl", "O, tl", "O, th"], "w_port_1": ["I1, fh", "I2, fh", "O, fh", "O, fl"]}
    outputs = {"r_port_1": ["O, tl"], "r_port_2": ["O, th"], "w_port_1": ["O, fh"], "w_port_2": ["O, fl"]}
    return {
        "name": "weight-stationary",
        "memories": {
            "weight": _memory(["I2"], 1, 1, {"r_port_1": ["I2, tl"], "w_port_1": ["I2, fh"]}, []),
            "output": _memory(["O"], 1, 1, outputs, []),
            "buffer": _memory(["I1", "I2", "O"], buffer, 6, every, ["D1", "D2"]),
            "dram": _memory(["I1", "I2", "O"], 1 << 34, 200, every, ["D1", "D2"]),
        },
        "operational_array": {
            "input_precision": [_WORD, _WORD],
            "unit_energy": 1, "unit_area": 1, "dimensions": ["D1", "D2"], "sizes": [side, side],
        },
    }  # fmt: skip


def _workload(layer: list[int]) -> list[dict[str, Any]]:
    height, width, kernel_h, kernel_w, channels, filters, stride = layer
    return [
        {
            "id": 0, "name": "layer", "operator_type": "Conv",
            "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
            "operand_source": {"I": 0, "W": 0},
            "loop_dims": ["B", "K", "G", "OX", "OY", "C", "FX", "FY"],
            "loop_sizes": [
                1, filters, 1, (width - kernel_w) // stride + 1, (height - kernel_h) // stride + 1,
                channels, kernel_w, kernel_h,
            ],
            "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
            "operand_precision": {"W": _WORD, "I": _WORD, "O": _WORD, "O_final": _WORD},
            "pr_loop_dims": ["IX", "IY"], "pr_loop_sizes": [width, height], "padding": [[0, 0], [0, 0]],
        }
    ]  # fmt: skip


def _mapping(side: int) -> list[dict[str, Any]]:
    return [
        {
            "name": "default",
            "spatial_mapping": {"D1": [f"K, {side}"], "D2": [f"C, {side}"]},
            "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
        }
    ]


def optimise(case: Mapping[str, Any]) -> dict[str, float]:
    """The least energy that ZigZag finds, and the accesses of that mapping."""
    import yaml
    from zigzag.api import get_hardware_performance_zigzag

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        documents = {
            "machine": _machine(case["side"], case["buffer"]),
            "mapping": _mapping(case["side"]),
            "workload": _workload(case["layer"]),
        }
        for name, document in documents.items():
            (place / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        energy, _, found = get_hardware_performance_zigzag(
            str(place / "workload.yaml"), str(place / "machine.yaml"), str(place / "mapping.yaml"),
            opt="energy", dump_folder=str(place / "out"), loma_show_progress_bar=False,
        )  # fmt: skip
    best = found[0][1][0][0]
    levels = {
        str(operand): [sum(level.data.values()) for level in each] for operand, each in best.memory_word_access.items()
    }
    return {
        "energy": float(energy),
        "macs": int(best.layer.total_mac_count),
        "registers": sum(each[0] for each in levels.values() if len(each) == 3),
        "buffer": sum(each[-2] for each in levels.values()),
        "dram": sum(each[-1] for each in levels.values()),
    }


def main() -> None:
    cases = json.load(sys.stdin)
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        results = [optimise(case) for case in cases]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

"""Layers simulated by SCALE-Sim, as a program of its own: it needs numpy < 2.4 and so an environment of its own.

    python -m venv peer && peer/bin/pip install "scalesim==3.0.0" "numpy<2.4"
    peer/bin/python experiments/scalesim_peer.py < cases.json > results.json

A case is {"dataflow": "os", "rows": 16, "columns": 16, "layer": [height, width, kernel_h, kernel_w, channels, filters,
stride]}; a result has its cycles (of SCALE-Sim: the number of the last one), accesses to SRAM and words of DRAM.
Nothing of ecc is imported here. SCALE-Sim rounds the size of an output up where torch rounds it down, so strides should
divide.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CONFIG = """
[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {columns}
IfmapSramSzkB = {sram}
FilterSramSzkB = {sram}
OfmapSramSzkB = {sram}
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Bandwidth = 10
Dataflow = {dataflow}
MemoryBanks = 1
ReadRequestBuffer = 32
WriteRequestBuffer = 32
[layout]
IfmapCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterCustomLayout = False
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
SparseRep = ellpack_block
OptimizedMapping = false
BlockSize = 8
RandomNumberGeneratorSeed = 40
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""
_ITEMS = ("input_reads", "weight_reads", "output_writes", "dram_inputs", "dram_weights", "dram_outputs")


def simulate(cases: Sequence[Mapping[str, Any]], *, sram_kb: int = 64) -> list[dict[str, int]]:
    """What SCALE-Sim counts for each case."""
    results: list[dict[str, int]] = [{} for _ in cases]
    machines = sorted({(case["dataflow"], case["rows"], case["columns"]) for case in cases})
    for machine in machines:
        numbers = [i for i, case in enumerate(cases) if (case["dataflow"], case["rows"], case["columns"]) == machine]
        found = _run(machine, [cases[i]["layer"] for i in numbers], sram_kb)
        for number, result in zip(numbers, found, strict=True):
            results[number] = result
    return results


def _run(machine: tuple[str, int, int], layers: Sequence[Sequence[int]], sram_kb: int) -> list[dict[str, int]]:
    from scalesim.scale_sim import scalesim

    dataflow, rows, columns = machine
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        config, topology, layout = (place / name for name in ("run.cfg", "topology.csv", "layout.csv"))
        config.write_text(_CONFIG.format(dataflow=dataflow, rows=rows, columns=columns, sram=sram_kb))
        names = [f"layer{i}" for i in range(len(layers))]
        lines = [
            f"{name},{','.join(map(str, layer))},1:1,\n" for name, layer in zip(names, layers, strict=True)
        ]  # height, width, kernel, channels, filters, stride, sparsity
        topology.write_text("header\n" + "".join(lines))
        layout.write_text("header\n" + "".join(f"{name},{','.join(['1'] * 20)},\n" for name in names))
        simulator = scalesim(
            save_disk_space=True, verbose=False, config=str(config), topology=str(topology), layout=str(layout)
        )
        simulator.run_scale(top_path=str(place))
        return [_counts(layer) for layer in simulator.runner.single_layer_sim_object_list]


def _counts(layer: Any) -> dict[str, int]:
    cycles = int(layer.get_compute_report_items()[1])
    detail = layer.get_detail_report_items()[2::3]
    return {"cycles": cycles} | {name: int(count) for name, count in zip(_ITEMS, detail, strict=True)}


def main() -> None:
    cases = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        results = simulate(cases)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

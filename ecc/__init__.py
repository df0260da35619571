"""ecc: profile a device once, prune any PyTorch network to a budget, prove on the device that it holds.

    trace     nn.Module → WidthGraph: which channels are coupled
    slim      widths → a smaller nn.Module with the same outputs as the masked network
    profile   random widths, measured in turn with the dense network → ProfileTable
    fit       ProfileTable → CostModel;  judge gives its held-out error beside it
    compress  budgets → a network that holds them, measured
    save, load, verify, front      artefacts on disk, and what they are worth

The parts behind the verbs are public in their modules: ``ecc.network``, ``ecc.profiler``, ``ecc.energy_models``,
``ecc.solvers``, ``ecc.zoo``, ``ecc.data``, ``ecc.artefact``, ``ecc.report``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecc.api.compressing import Compression
    from ecc.api.fitting import fit, judge
    from ecc.api.keeping import Source, load
    from ecc.api.verbs import compress, front, profile, verify
    from ecc.core.budget import Budget
    from ecc.core.cost import CostModel
    from ecc.core.errors import EccError, InputError, Interrupted, MeterError, UnavailableError
    from ecc.core.table import ProfileTable
    from ecc.energy_models.bilinear import BilinearCost
    from ecc.energy_models.counting import CountCost
    from ecc.energy_models.judging import Fit
    from ecc.energy_models.systolic.array import SystolicArray
    from ecc.energy_models.systolic.cost import SystolicCost
    from ecc.energy_models.systolic.energy import systolic_energy
    from ecc.energy_models.systolic.indices import SparseIndex
    from ecc.energy_models.systolic.prices import weight_prices
    from ecc.fronts import Front
    from ecc.network.graph import WidthGraph
    from ecc.network.manifest import SlimManifest, rebuild
    from ecc.network.optimisers import transfer_optimiser
    from ecc.network.slimming import outline, slim
    from ecc.network.tracing import trace
    from ecc.profiler.design import sample
    from ecc.profiler.store import Store
    from ecc.report.saving import save
    from ecc.solvers.admm import Admm
    from ecc.solvers.baselines.magnitude import Magnitude
    from ecc.solvers.baselines.uniform import Uniform
    from ecc.verification import Verification

__version__ = "0.1.0"

_HOME = {
    "Admm": "ecc.solvers.admm",
    "BilinearCost": "ecc.energy_models.bilinear",
    "Budget": "ecc.core.budget",
    "Compression": "ecc.api.compressing",
    "CostModel": "ecc.core.cost",
    "CountCost": "ecc.energy_models.counting",
    "EccError": "ecc.core.errors",
    "Fit": "ecc.energy_models.judging",
    "Front": "ecc.fronts",
    "InputError": "ecc.core.errors",
    "Interrupted": "ecc.core.errors",
    "Magnitude": "ecc.solvers.baselines.magnitude",
    "MeterError": "ecc.core.errors",
    "ProfileTable": "ecc.core.table",
    "SlimManifest": "ecc.network.manifest",
    "Source": "ecc.api.keeping",
    "SparseIndex": "ecc.energy_models.systolic.indices",
    "Store": "ecc.profiler.store",
    "SystolicArray": "ecc.energy_models.systolic.array",
    "SystolicCost": "ecc.energy_models.systolic.cost",
    "UnavailableError": "ecc.core.errors",
    "Uniform": "ecc.solvers.baselines.uniform",
    "Verification": "ecc.verification",
    "WidthGraph": "ecc.network.graph",
    "compress": "ecc.api.verbs",
    "fit": "ecc.api.fitting",
    "front": "ecc.api.verbs",
    "judge": "ecc.api.fitting",
    "load": "ecc.api.keeping",
    "outline": "ecc.network.slimming",
    "profile": "ecc.api.verbs",
    "rebuild": "ecc.network.manifest",
    "sample": "ecc.profiler.design",
    "save": "ecc.report.saving",
    "slim": "ecc.network.slimming",
    "systolic_energy": "ecc.energy_models.systolic.energy",
    "trace": "ecc.network.tracing",
    "transfer_optimiser": "ecc.network.optimisers",
    "verify": "ecc.api.verbs",
    "weight_prices": "ecc.energy_models.systolic.prices",
}

__all__ = [
    "Admm",
    "BilinearCost",
    "Budget",
    "Compression",
    "CostModel",
    "CountCost",
    "EccError",
    "Fit",
    "Front",
    "InputError",
    "Interrupted",
    "Magnitude",
    "MeterError",
    "ProfileTable",
    "SlimManifest",
    "Source",
    "SparseIndex",
    "Store",
    "SystolicArray",
    "SystolicCost",
    "UnavailableError",
    "Uniform",
    "Verification",
    "WidthGraph",
    "compress",
    "fit",
    "front",
    "judge",
    "load",
    "outline",
    "profile",
    "rebuild",
    "sample",
    "save",
    "slim",
    "systolic_energy",
    "trace",
    "transfer_optimiser",
    "verify",
    "weight_prices",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import ecc`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'ecc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

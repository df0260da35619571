"""ecc: profile a device once, prune any PyTorch network to a budget, prove on the device that it holds.

    trace     nn.Module → WidthGraph: which channels are coupled
    slim      widths → a smaller nn.Module with the same outputs as the masked network
    profile   random widths, measured in turn with the dense network → ProfileTable
    fit       ProfileTable → CostModel;  judge gives its held-out error beside it
    compress  budgets → a network that holds them, measured; compress_path, one for each of many budgets
    stage     a network or an artefact → its weights in fewer bytes, by stages in any sensible order
    export    a network as ONNX, as a program of torch.export or as a state dict, run and compared; load_state
    sweep     many jobs of one file, on all cores or a Ray cluster → finished artefacts and their front
    save, load, verify, front      artefacts on disk, and what they are worth
    sparse_execution   which layers a device runs faster without their zeros
    dispatch           which way of running each layer is the fastest here, kept and applied again
    load_cost, compose, diagnose   cost models from files, from operators alone, and how well they are known

The parts behind the verbs are public in their modules: ``ecc.network``, ``ecc.profiler``, ``ecc.energy_models``,
``ecc.solvers``, ``ecc.stages``, ``ecc.zoo``, ``ecc.data``, ``ecc.artefact``, ``ecc.report``, ``ecc.sweeps``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecc.api.composing import compose
    from ecc.api.compressing import Compression
    from ecc.api.deployment.exported import Exported
    from ecc.api.deployment.exporting import export
    from ecc.api.deployment.state_files import load_state
    from ecc.api.describing import Source
    from ecc.api.diagnosing import diagnose
    from ecc.api.dispatched import Dispatch
    from ecc.api.dispatching import dispatch
    from ecc.api.executing import SparseExecution, sparse_execution
    from ecc.api.fitting import fit, judge
    from ecc.api.keeping import load
    from ecc.api.recipe import Recipe
    from ecc.api.sparsity import Sparsity
    from ecc.api.staged import Staged
    from ecc.api.staging import stage
    from ecc.api.verbs import compress, compress_path, front, profile, verify
    from ecc.api.weight_recipe import JointRecipe, WeightRecipe
    from ecc.core.budget import Budget
    from ecc.core.cost import CostModel
    from ecc.core.errors import EccError, InputError, Interrupted, MeterError, UnavailableError
    from ecc.core.table import ProfileTable
    from ecc.energy_models.additive import AdditiveCost
    from ecc.energy_models.bilinear import BilinearCost
    from ecc.energy_models.counting import CountCost
    from ecc.energy_models.factored import FactoredCost
    from ecc.energy_models.judging import Fit
    from ecc.energy_models.loading import load_cost
    from ecc.energy_models.mlp import MlpCost
    from ecc.energy_models.published import alexnet_tx2
    from ecc.energy_models.staircase import StaircaseCost
    from ecc.energy_models.systolic.array import SystolicArray
    from ecc.energy_models.systolic.cost import SystolicCost
    from ecc.energy_models.systolic.energy import systolic_energy
    from ecc.energy_models.systolic.indices import SparseIndex
    from ecc.energy_models.systolic.prices import weight_prices
    from ecc.fronts import Front, Fronts
    from ecc.network.graph import WidthGraph
    from ecc.network.manifest import SlimManifest, rebuild
    from ecc.network.optimisers import transfer_optimiser
    from ecc.network.slimming import outline, slim
    from ecc.network.tracing import trace
    from ecc.profiler.design import sample
    from ecc.profiler.store import Store
    from ecc.report.saving import save
    from ecc.solvers.admm import Admm
    from ecc.solvers.baselines.knapsack import Knapsack
    from ecc.solvers.baselines.loss_change import Fisher, Taylor
    from ecc.solvers.baselines.magnitude import Magnitude
    from ecc.solvers.baselines.netadapt import NetAdapt
    from ecc.solvers.baselines.uniform import Uniform
    from ecc.solvers.projection import weighted_sparse_projection
    from ecc.sweeps.sweeping import Swept
    from ecc.sweeps.verb import sweep
    from ecc.verification import Verification

__version__ = "0.1.0"

_HOME = {
    "AdditiveCost": "ecc.energy_models.additive",
    "Admm": "ecc.solvers.admm",
    "BilinearCost": "ecc.energy_models.bilinear",
    "Budget": "ecc.core.budget",
    "Compression": "ecc.api.compressing",
    "CostModel": "ecc.core.cost",
    "CountCost": "ecc.energy_models.counting",
    "Dispatch": "ecc.api.dispatched",
    "EccError": "ecc.core.errors",
    "Exported": "ecc.api.deployment.exported",
    "FactoredCost": "ecc.energy_models.factored",
    "Fisher": "ecc.solvers.baselines.loss_change",
    "Fit": "ecc.energy_models.judging",
    "Front": "ecc.fronts",
    "Fronts": "ecc.fronts",
    "InputError": "ecc.core.errors",
    "Interrupted": "ecc.core.errors",
    "JointRecipe": "ecc.api.weight_recipe",
    "Knapsack": "ecc.solvers.baselines.knapsack",
    "Magnitude": "ecc.solvers.baselines.magnitude",
    "MeterError": "ecc.core.errors",
    "MlpCost": "ecc.energy_models.mlp",
    "NetAdapt": "ecc.solvers.baselines.netadapt",
    "ProfileTable": "ecc.core.table",
    "Recipe": "ecc.api.recipe",
    "SlimManifest": "ecc.network.manifest",
    "Source": "ecc.api.describing",
    "SparseExecution": "ecc.api.executing",
    "SparseIndex": "ecc.energy_models.systolic.indices",
    "Sparsity": "ecc.api.sparsity",
    "Staged": "ecc.api.staged",
    "StaircaseCost": "ecc.energy_models.staircase",
    "Store": "ecc.profiler.store",
    "Swept": "ecc.sweeps.sweeping",
    "SystolicArray": "ecc.energy_models.systolic.array",
    "SystolicCost": "ecc.energy_models.systolic.cost",
    "Taylor": "ecc.solvers.baselines.loss_change",
    "UnavailableError": "ecc.core.errors",
    "Uniform": "ecc.solvers.baselines.uniform",
    "Verification": "ecc.verification",
    "WeightRecipe": "ecc.api.weight_recipe",
    "WidthGraph": "ecc.network.graph",
    "alexnet_tx2": "ecc.energy_models.published",
    "compose": "ecc.api.composing",
    "compress": "ecc.api.verbs",
    "compress_path": "ecc.api.verbs",
    "diagnose": "ecc.api.diagnosing",
    "dispatch": "ecc.api.dispatching",
    "export": "ecc.api.deployment.exporting",
    "fit": "ecc.api.fitting",
    "front": "ecc.api.verbs",
    "judge": "ecc.api.fitting",
    "load": "ecc.api.keeping",
    "load_cost": "ecc.energy_models.loading",
    "load_state": "ecc.api.deployment.state_files",
    "outline": "ecc.network.slimming",
    "profile": "ecc.api.verbs",
    "rebuild": "ecc.network.manifest",
    "sample": "ecc.profiler.design",
    "save": "ecc.report.saving",
    "slim": "ecc.network.slimming",
    "sparse_execution": "ecc.api.executing",
    "stage": "ecc.api.staging",
    "sweep": "ecc.sweeps.verb",
    "systolic_energy": "ecc.energy_models.systolic.energy",
    "trace": "ecc.network.tracing",
    "transfer_optimiser": "ecc.network.optimisers",
    "verify": "ecc.api.verbs",
    "weight_prices": "ecc.energy_models.systolic.prices",
    "weighted_sparse_projection": "ecc.solvers.projection",
}

__all__ = [
    "AdditiveCost",
    "Admm",
    "BilinearCost",
    "Budget",
    "Compression",
    "CostModel",
    "CountCost",
    "Dispatch",
    "EccError",
    "Exported",
    "FactoredCost",
    "Fisher",
    "Fit",
    "Front",
    "Fronts",
    "InputError",
    "Interrupted",
    "JointRecipe",
    "Knapsack",
    "Magnitude",
    "MeterError",
    "MlpCost",
    "NetAdapt",
    "ProfileTable",
    "Recipe",
    "SlimManifest",
    "Source",
    "SparseExecution",
    "SparseIndex",
    "Sparsity",
    "Staged",
    "StaircaseCost",
    "Store",
    "Swept",
    "SystolicArray",
    "SystolicCost",
    "Taylor",
    "UnavailableError",
    "Uniform",
    "Verification",
    "WeightRecipe",
    "WidthGraph",
    "alexnet_tx2",
    "compose",
    "compress",
    "compress_path",
    "diagnose",
    "dispatch",
    "export",
    "fit",
    "front",
    "judge",
    "load",
    "load_cost",
    "load_state",
    "outline",
    "profile",
    "rebuild",
    "sample",
    "save",
    "slim",
    "sparse_execution",
    "stage",
    "sweep",
    "systolic_energy",
    "trace",
    "transfer_optimiser",
    "verify",
    "weight_prices",
    "weighted_sparse_projection",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import ecc`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'ecc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

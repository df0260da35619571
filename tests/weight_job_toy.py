"""A small trained network on digits, and jobs that prune its weights, for tests of the face of weight pruning."""

from functools import cache

import torch
from cli_toy import NETWORK

import ecc
from ecc.api.compressing import job_of
from ecc.api.weight_recipe import recipe_of
from ecc.core.budget import Budget
from ecc.data.loading import load_data
from ecc.network.tracing import trace
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

DATA = load_data("digits")
INPUTS = DATA.example(1)


def small():
    names = {}
    exec(NETWORK, names)  # the user's file of the command line tests
    torch.manual_seed(0)
    return names["Small"](8)


@cache
def network():
    """A trained network and its width graph."""
    model = small()
    train(model, DATA.task(), TrainConfig(epochs=4, lr=1e-2))
    return model.eval(), trace(model.eval(), INPUTS)


def energy(array="eyeriss"):
    return ecc.SystolicCost.of(network()[1], array)


def pruned(*budgets, method="projected-sgd", costs=None, epochs=1, **settings):
    """The results of a job, one per set of budgets."""
    model, graph = network()
    given = {name: settings.pop(name) for name in ("folder", "progress") if name in settings}
    sets = [tuple(map(Budget.parse, each.split())) for each in budgets]
    costs = ([energy()] if "energy" in budgets[0] else []) if costs is None else costs
    recipe = recipe_of(method, epochs=epochs, **settings)
    return list(job_of(model, graph, DATA.task(), sets, costs, INPUTS, recipe=recipe, test=DATA.test, **given).run())

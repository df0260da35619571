"""Artefacts and fronts written with the page that explains them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ecc.api.compressing import Compression
from ecc.api.describing import Source, manifest_of
from ecc.api.keeping import save as save_plain
from ecc.api.packing import Packing
from ecc.api.sparsity import Sparsity
from ecc.api.staged import Staged, manifest_of_staged
from ecc.artefact import Artefact, Manifest, read, save_packed
from ecc.core.cost import CostModel
from ecc.core.errors import InputError
from ecc.energy_models.counting import COUNTED
from ecc.energy_models.judging import Fit
from ecc.fronts import Fronts
from ecc.network.graph import WidthGraph
from ecc.report.files import DRAWING, PICTURE, demand_target, write_file
from ecc.report.front_figures import fronts_figure
from ecc.report.front_page import render_fronts
from ecc.report.page import Report, pictures, render
from ecc.report.places import model_facts, place_facts
from ecc.report.spending import times_of
from ecc.report.style import to_png, to_svg
from ecc.report.work import channel_rows, group_rows
from ecc.solvers.distributed import present_ranks

__all__ = ["TRIALS", "WrittenFront", "report_of", "save", "trials_of", "write_front", "write_page"]

TRIALS = "trials.csv"
"""File of an artefact with the measurements that its widths rest on."""


def report_of(
    manifest: Manifest,
    history: pd.DataFrame,
    *,
    trials: pd.DataFrame | None = None,
    sparsity: Sparsity | None = None,
    packing: Packing | None = None,
    fits: Sequence[Fit] = (),
    costs: Sequence[CostModel] = (),
    graph: WidthGraph | None = None,
    notes: tuple[str, ...] = (),
) -> Report:
    """The page of one compression.

    Args:
        costs: The cost models of its budgets; those of ``fits`` when there are none.
        graph: Of the dense network; without it nothing is said of single layers.
        packing: What secondary stages have made of the weights.
        sparsity: What is zero, as in ``Compression.sparsity``.
        trials: What was measured on the way, as in ``Compression.trials``.
    """
    models = tuple(costs) or tuple(fit.cost for fit in fits)
    left = manifest.counts.get("macs", 0) / max(manifest.counts.get("macs_dense", 0), 1)
    whole = sparsity is not None and dict(manifest.widths) == dict(manifest.dense)  # no channel went
    summary = {
        "Network": manifest.network,
        "Method": manifest.method,
        "Data": manifest.data,
        "Dense weights": manifest.weights,
        "Epochs": str(manifest.settings.get("epochs", "")),
        "Rounds": str(manifest.rounds),
        "Parameters left": "" if manifest.nonzero_fraction is None else f"{100 * manifest.nonzero_fraction:.1f} %",
        "MACs left": f"{100 * left:.1f} %" if left and not whole else "",
        "Blocks removed": ", ".join(manifest.removed),
        "Seed": str(manifest.seed),
        "Time": f"{manifest.seconds:.0f} s",
    }
    # Groups that went with a block keep nothing.
    widths = dict.fromkeys(manifest.dense, 0) | dict(manifest.widths)
    known = graph is not None and not whole and set(manifest.widths) <= set(graph.space.full)
    saving = [cost for cost in models if cost.metric not in COUNTED and not cost.source]
    return Report(
        title=f"{manifest.network}, compressed by {manifest.made_by}",
        summary={key: text for key, text in summary.items() if text},
        budgets=manifest.budgets,
        accuracy_dense=manifest.accuracy_dense,
        accuracy=manifest.accuracy,
        dense={} if whole else manifest.dense,
        widths={} if whole else widths,
        channels=channel_rows(graph, manifest.widths, manifest.removed) if known and graph is not None else (),
        groups=() if whole else tuple(group_rows(saving, manifest.dense, widths)),
        saved=tuple(cost.metric for cost in saving),
        sparsity=sparsity,
        packing=packing,
        history=history,
        trials=trials,
        references=_references(manifest, models),
        fits=tuple(fits),
        models=model_facts(models, manifest),
        places=place_facts(manifest, models),
        times=times_of(manifest, history, trials, models),
        device=manifest.device,
        environment=manifest.environment,
        notes=notes,
        created=manifest.created,
    )


def _references(manifest: Manifest, models: Sequence[CostModel]) -> dict[str, float]:
    """The dense network's values in the profiles, of the metrics that budgets are relative in."""
    relative = {check.metric for check in manifest.budgets if check.relative}
    return {cost.metric: cost.dense for cost in models if cost.metric in relative and not cost.exact}


def save(
    result: Compression | Staged, path: str | Path, *, source: Source | None = None, fits: Sequence[Fit] = ()
) -> Artefact:
    """Write a compression, or what secondary stages have made, as an artefact with its page and pictures.

    Of several processes that call this, the first one writes; the others wait for it and open what it wrote.

    Args:
        source: Where the dense network came from, so that ``load`` can make it again; what is known when None.
        fits: The judged cost models, where they are at hand.
    Raises:
        InputError: If the folder cannot be written; nothing is then written.
    """
    if isinstance(result, Staged):
        return _write_staged(result, path, source, fits)
    written = present_ranks().once("save", lambda: _write(result, path, source, fits))
    return read(path) if written is None else written


def _write_staged(result: Staged, path: str | Path, source: Source | None, fits: Sequence[Fit]) -> Artefact:
    manifest = manifest_of_staged(result, source)
    loaded = result.start.loaded
    report = report_of(
        manifest,
        result.history,
        packing=Packing.of(manifest, result.code),
        fits=fits,
        trials=None if loaded is None else trials_of(loaded.artefact),
        costs=() if loaded is None else tuple(loaded.costs().values()),
        graph=None if loaded is None else loaded.graph,
    )
    history = result.history.to_csv(index=False).encode()
    own = {} if result.limits is None else dict(result.limits.files)
    files = {
        **result.start.files,
        **own,
        "history.csv": history,
        "report.html": render(report).encode(),
        **pictures(report),
    }
    return save_packed(path, manifest, result.code.to_bytes(), files=files)


def _write(result: Compression, path: str | Path, source: Source | None, fits: Sequence[Fit]) -> Artefact:
    manifest = manifest_of(result, source)
    report = report_of(
        manifest,
        result.history,
        trials=result.trials,
        sparsity=result.sparsity,
        fits=fits,
        costs=result.costs,
        graph=result.graph,
        notes=result.graph.notes,
    )
    files = {"report.html": render(report).encode(), **pictures(report)}
    if len(result.trials):
        files[TRIALS] = result.trials.to_csv(index=False).encode()
    return save_plain(result, path, manifest, attachments=files)


def trials_of(artefact: Artefact) -> pd.DataFrame | None:
    """What was measured on the way to an artefact; None where nothing was, or by an older version.

    Raises:
        InputError: If the file is no table.
    """
    if TRIALS not in artefact.files:
        return None
    try:
        return pd.read_csv(io.BytesIO(artefact.content(TRIALS)))
    except ValueError as error:
        raise InputError(f"{TRIALS} of artefact {artefact.path} is no table; it was changed or damaged") from error


def write_page(report: Report, path: str | Path) -> dict[str, Path]:
    """Write a page and its pictures beside it; returns the paths by name, ``page`` and one per picture.

    Raises:
        InputError: If a file cannot be written.
    """
    page, drawn = Path(path), pictures(report)
    places = {name: demand_target(page.with_name(f"{page.stem}-{name}"), PICTURE) for name in drawn}
    written = {"page": write_file(page, render(report).encode())}
    for name, content in drawn.items():
        written[name.removesuffix(".png")] = write_file(places[name], content)
    return written


@dataclass(frozen=True, slots=True)
class WrittenFront:
    """The files of a front.

    Attributes:
        page: HTML, self-contained.
        picture: Its figure as PNG.
        drawing: Its figure as SVG.
    """

    page: Path
    picture: Path
    drawing: Path


def write_front(fronts: Fronts, path: str | Path) -> WrittenFront:
    """Write the page of fronts and their figure beside it.

    Raises:
        InputError: If a file cannot be written, or the page is named as a picture.
    """
    page = Path(path)
    if page.suffix.lower() in (".png", ".svg"):
        raise InputError(f"{page} would be a page of HTML; call it {page.with_suffix('.html').name}")
    picture = demand_target(page.with_name(f"{page.stem}.png"), PICTURE)
    drawing = demand_target(page.with_name(f"{page.stem}.svg"), DRAWING)
    figure = fronts_figure(fronts)
    return WrittenFront(
        write_file(page, render_fronts(fronts).encode("utf-8", errors="replace")),
        write_file(picture, to_png(figure)),
        write_file(drawing, to_svg(figure).encode()),
    )

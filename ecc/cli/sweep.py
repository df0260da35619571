"""sweep: many constrained jobs of one job file, compared fairly."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from ecc.cli.command import Command, Outcome
from ecc.cli.fronts import front_text, front_value
from ecc.cli.progress import ProgressLine
from ecc.cli.sweep_table import SweepTable, verdict
from ecc.cli.tables import table
from ecc.core.errors import EccError, InputError, Interrupted
from ecc.sweeps.ledger import Ledger
from ecc.sweeps.plan import Plan
from ecc.sweeps.sweeping import Swept
from ecc.sweeps.verb import ENGINES, prepare, write_sweep_front

__all__ = ["COMMANDS"]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", metavar="JOB.toml", help="networks, methods, budgets and seeds; see docs/sweeps.md")
    parser.add_argument("--out", metavar="DIR", help="folder of the sweep (default: out of the file, or NAME-sweep)")
    parser.add_argument(
        "--resume", action="store_true", help="run what is missing in the folder, and what failed there"
    )
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=f"where jobs run (default {ENGINES[0]})")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="jobs at a time on this machine (default: one per physical core, or per GPU where they train on these)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of a running Ray cluster, or auto for the one of this machine (default: address of [ray] in the file, "
        "$RAY_ADDRESS, or a cluster that is started here)",
    )
    parser.add_argument("--check", action="store_true", help="only look for mistakes and list the jobs")


def _run(arguments: argparse.Namespace, progress: ProgressLine) -> Outcome:
    if arguments.seed:
        raise InputError("the seeds of a sweep are those of its job file; leave --seed out")
    progress.begin("check the job file")
    prepared = prepare(
        arguments.job,
        out=arguments.out,
        engine=arguments.engine,
        workers=arguments.workers,
        address=arguments.address,
    )
    progress.end_line()
    if arguments.check:
        return _listed(prepared.plan, prepared.ledger)
    shown = SweepTable(prepared.ledger, progress, quiet=arguments.quiet)
    try:
        swept = prepared.run(shown, resume=arguments.resume)
    except Interrupted as error:
        shown.close()
        raise Interrupted(str(error), resume=_resume_line(arguments)) from None
    finally:
        shown.close()
    return _outcome(swept, prepared.ledger)


def _resume_line(arguments: argparse.Namespace) -> str:
    """The command that goes on."""
    words = ["ecc", "sweep", arguments.job, "--resume"]
    for name in ("out", "workers", "address"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name}", str(value)]
    words += ["--engine", arguments.engine] if arguments.engine != ENGINES[0] else []
    words += [f"--{name}" for name, given in (("json", arguments.as_json), ("quiet", arguments.quiet)) if given]
    return shlex.join(words)


def _listed(plan: Plan, ledger: Ledger) -> Outcome:
    """The jobs of a plan without running any."""
    rows = [[job.id, job.network, job.device, job.method, job.budgets.label, str(job.seed)] for job in plan.jobs]
    named = any(job.device for job in plan.jobs)
    header = ["job", "network", "device", "method", "budgets", "seed"]
    shown = [place for place, name in enumerate(header) if named or name != "device"]
    text = table([header[place] for place in shown], [[row[place] for place in shown] for row in rows])
    value = {
        "jobs": len(plan.jobs),
        "done": ledger.done_of(plan),
        "plan": [{"id": job.id, **job.fields} for job in plan.jobs],
        "out": str(ledger.folder),
    }
    return Outcome(value, f"{text}\n\n{len(plan.jobs)} job{'' if len(plan.jobs) == 1 else 's'}, no mistake found")


def _outcome(swept: Swept, ledger: Ledger) -> Outcome:
    """What has come of a sweep, with the front of what is done."""
    front, text, page = _front(swept)
    value: dict[str, Any] = {
        "jobs": len(swept.plan.jobs),
        "done": len(swept.done),
        "failed": len(swept.failed),
        "front": page,
        "missed": [record.id for record in swept.missed],
        "ran": len(swept.fresh),
        "failures": [
            {"id": record.id, "error": record.error, "traceback": str(ledger.error(record.id))}
            for record in swept.failed
        ],
        "results": [{"artefact": str(ledger.artefact(record.id))} | record.to_json() for record in swept.done],
        "hypervolume": front,
        "seconds": swept.seconds,
        "job_seconds": swept.job_seconds,
        "workers": swept.workers,
        "out": str(ledger.folder),
    }
    counts = [f"{len(swept.done)} of {len(swept.plan.jobs)} jobs done"]
    counts += [f"{len(swept.failed)} failed"] if swept.failed else []
    counts += [f"{len(swept.missed)} missed a budget"] if swept.missed else []
    lines = [text] if text else []
    lines += _failures(swept, ledger)
    lines += [f"{record.id}: {verdict(record)}" for record in swept.missed]
    lines.append(f"{', '.join(counts)}; {swept.seconds:.0f} s for {swept.job_seconds:.0f} s of jobs: {ledger.folder}")
    return Outcome(value, "\n".join(lines), exit_code=int(bool(swept.failed or swept.missed)))


def _failures(swept: Swept, ledger: Ledger) -> list[str]:
    """A line for each thing that went wrong, however many jobs it has cost."""
    by_error: dict[str, list[str]] = {}
    for record in swept.failed:
        by_error.setdefault(record.error, []).append(record.id)
    return [
        f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''} failed: {error} ({ledger.error(ids[0])})"
        for error, ids in by_error.items()
    ]


def _front(swept: Swept) -> tuple[dict[str, Any] | None, str, str | None]:
    """The front of what is done: its JSON object, its text and its page; why there is none, where there is none."""
    if not swept.done:
        return None, "", None
    try:
        found, written = write_sweep_front(swept)
    except EccError as error:
        return None, f"no front: {error}", None
    return front_value(found, written)["hypervolume"], front_text(found, written), str(written.page)


COMMANDS = (
    Command(
        "sweep",
        "ecc sweep digits.toml --out digits-sweep",
        _arguments,
        _run,
        resumes=True,
    ),
)

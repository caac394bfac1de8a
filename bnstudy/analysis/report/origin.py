"""How a study was run, as pairs of a name and a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnstudy.analysis.figures.subject import Subject
from bnstudy.analysis.figures.units import amount, listed, plural


def origin(provenance: Mapping[str, Any], subject: Subject) -> list[tuple[str, list[str]]]:
    """What a reader needs to run the study again: command, declaration, code, libraries, machines, time, size.

    Args:
        provenance: as in provenance.json; what it lacks is left out.
        subject: what the study asks.
    """
    declared = provenance.get("declared") or {}
    margin = f"±{amount(subject.margin, subject.metric)}" if subject.margin is not None else "none declared"
    family = declared.get("family") or {}
    cells = "; ".join(f"{key} {value}" for key, value in family.items()) if isinstance(family, Mapping) else str(family)
    facts: list[tuple[str, list[str]]] = [
        ("Command", [str(provenance["command"])] if provenance.get("command") else []),
        ("Primary number", [subject.what]),
        ("Margin and level", [f"{margin}; α = {subject.alpha:g}"]),
        ("Family", [cells or "all cells"]),
        ("Runs", [_runs(provenance)]),
        ("Time", [f"{provenance['cpu_seconds']:.0f} core-seconds of training"] if "cpu_seconds" in provenance else []),
        ("Code", [_source(source) for source in provenance.get("sources") or []]),
        ("Libraries", [_versions(version) for version in provenance.get("versions") or []]),
        ("Machine", [_machine(machine) for machine in provenance.get("machines") or []]),
    ]
    return [(name, texts) for name, texts in facts if texts]


def _runs(provenance: Mapping[str, Any]) -> str:
    seeds = provenance.get("seeds") or []
    said = listed([str(seed) for seed in seeds], 40) or "none"
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        said = f"{seeds[0]}…{seeds[-1]}"
    cells = provenance.get("cells") or []
    runs, jobs = plural(int(provenance.get("runs", 0)), "run"), plural(int(provenance.get("trainings", 0)), "job")
    return f"{runs} in {jobs}; {plural(len(cells), 'cell')}; seeds {said}"


def _source(source: Mapping[str, Any]) -> str:
    commit = source.get("commit")
    state = " with uncommitted changes" if source.get("dirty") else ""
    return f"bnstudy {source.get('bnstudy', '?')}, {f'commit {commit}{state}' if commit else 'commit unknown'}"


def _versions(version: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in version.items())


def _machine(machine: Mapping[str, Any]) -> str:
    known = {"processor": "{}", "cores": "{} cores", "threads": "{} thread(s) a job", "system": "{}"}
    parts = [form.format(machine[key]) for key, form in known.items() if machine.get(key) is not None]
    parts += [f"{key} {value}" for key, value in machine.items() if key not in known and value is not None]
    return ", ".join(parts)

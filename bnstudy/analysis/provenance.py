"""How a study's numbers came about: gathered from its jobs, and put in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnstudy.analysis.subject import Subject
from bnstudy.analysis.tables import recorded_study
from bnstudy.analysis.verdicts import declared_family
from bnstudy.analysis.wording import amount, plural
from bnstudy.sweeps.redaction import redacted
from bnstudy.sweeps.store import LAYOUT, Record, Store, is_done


def provenance_of(store: Store, name: str) -> Record:
    """Command, commit, versions, machine, seeds and number of runs of a study, and what is missing of it.

    Args:
        store: raw runs.
        name: the study.

    Raises:
        UserError: no such study.

    Source: docs/architecture.md, "The store".
    """
    study = recorded_study(store, name)
    names = sorted({job for cell in study["cells"] for job in cell["jobs"]})
    found = {job: store.record(job) for job in names}
    records = {job: record for job, record in found.items() if record is not None and record.get("layout") == LAYOUT}
    done = [record for record in records.values() if is_done(record)]
    return {
        "study": name,
        "command": study["command"],
        "declared": study["study_fields"],
        "comparisons": declared_family(study["study_fields"], study["cells"]).size,
        "sources": _distinct(record["source"] for record in done),
        "versions": _distinct(record["versions"] for record in done),
        "machines": _distinct(record["machine"] | {"threads": record["threads"]} for record in done),
        "trainings": len(done),
        "runs": sum(len(record["seeds"]) for record in done),
        "seeds": sorted({seed for record in done for seed in record["seeds"]}),
        "cpu_seconds": round(sum(record["seconds"] * record["threads"] for record in done), 1),
        "missing": [job for job in names if job not in records],
        "failed": {job: redacted(record["message"]) for job, record in records.items() if record["status"] == "failed"},
        "diverged": {job: record["diverged"] for job, record in records.items() if record.get("diverged")},
        "cells": study["cells"],
    }


def facts(provenance: Mapping[str, Any], subject: Subject) -> list[tuple[str, list[str]]]:
    """What a reader needs to run the study again: command, declaration, code, libraries, machines, time, size.

    Args:
        provenance: as in provenance.json; what it lacks is left out.
        subject: what the study asks.

    Returns:
        Names of facts with their texts, of which there are several where runs differ.
    """
    declared = provenance.get("declared") or {}
    margin = f"±{amount(subject.margin, subject.metric)}" if subject.margin is not None else "none declared"
    family = declared.get("family") or {}
    cells = "; ".join(f"{key} {value}" for key, value in family.items()) if isinstance(family, Mapping) else str(family)
    found: list[tuple[str, list[str]]] = [
        ("Command", [str(provenance["command"])] if provenance.get("command") else []),
        ("Primary number", [subject.what]),
        ("Margin and level", [f"{margin}; α = {subject.alpha:g}"]),
        ("Family", [cells or "all cells"]),
        ("Runs", [_runs(provenance)]),
        ("Time", [f"{provenance['cpu_seconds']:.0f} core-seconds of training"] if "cpu_seconds" in provenance else []),
        ("Code", [_source(source) for source in provenance.get("sources") or []]),
        ("Libraries", [_versions(versions) for versions in provenance.get("versions") or []]),
        ("Machine", [_machine(machine) for machine in provenance.get("machines") or []]),
    ]
    return [(name, texts) for name, texts in found if texts]


def lost_runs(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Jobs that are missing, failed or had a seed diverge, each with what became of it."""
    lost = [(str(job), "missing: not run, or not readable by this version") for job in provenance.get("missing") or []]
    lost += [(str(job), f"failed: {message}") for job, message in (provenance.get("failed") or {}).items()]
    for job, steps in (provenance.get("diverged") or {}).items():
        lost.append((str(job), f"diverged: {', '.join(f'seed {seed} at step {step}' for seed, step in steps.items())}"))
    return lost


def provenance_lines(provenance: Mapping[str, Any], subject: Subject) -> list[str]:
    """The same for a terminal, a fact a line; where runs differ, the first and how many more there are."""
    lines = []
    for name, texts in facts(provenance, subject):
        more = f"; {len(texts) - 1} more in provenance.json" if len(texts) > 1 else ""
        lines.append(f"{name}: {texts[0]}{more}")
    return lines + [f"Job {job}: {fate}" for job, fate in lost_runs(provenance)]


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _runs(provenance: Mapping[str, Any]) -> str:
    runs, jobs = plural(int(provenance.get("runs", 0)), "run"), plural(int(provenance.get("trainings", 0)), "job")
    cells = plural(len(provenance.get("cells") or []), "cell")
    return f"{runs} in {jobs}; {cells}; seeds {_spans(provenance.get('seeds') or []) or 'none'}"


def _spans(seeds: Sequence[int]) -> str:
    """Ascending seeds, neighbours joined: "0…7, 16"."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(f"{first}…{last}" if first != last else str(first) for first, last in spans)


def _source(source: Mapping[str, Any]) -> str:
    commit = source.get("commit")
    state = " with uncommitted changes" if source.get("dirty") else ""
    return f"bnstudy {source.get('bnstudy', '?')}, {f'commit {commit}{state}' if commit else 'commit unknown'}"


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _machine(machine: Mapping[str, Any]) -> str:
    known = {"processor": "{}", "cores": "{} cores", "threads": "{} thread(s) a job", "system": "{}"}
    parts = [form.format(machine[key]) for key, form in known.items() if machine.get(key) is not None]
    parts += [f"{key} {value}" for key, value in machine.items() if key not in known and value is not None]
    return ", ".join(parts)

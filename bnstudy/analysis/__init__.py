"""From raw runs to answers: `tables` and `gaps`, `contrasts` with their `statistics`, then `figures` and the `report`.

Nothing here imports torch: what was trained is read from the store, or from results/NAME.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnstudy.lazy import face

if TYPE_CHECKING:
    from bnstudy.analysis.command import report_study as report_study
    from bnstudy.analysis.contrasts import contrast_table as contrast_table
    from bnstudy.analysis.families import Family as Family
    from bnstudy.analysis.provenance import provenance_lines as provenance_lines
    from bnstudy.analysis.results import load as load
    from bnstudy.analysis.results import reported as reported
    from bnstudy.analysis.results import write_results as write_results
    from bnstudy.analysis.subject import subject_of as subject_of
    from bnstudy.analysis.summary import printed_tables as printed_tables
    from bnstudy.analysis.tables import study_tables as study_tables
    from bnstudy.analysis.verdicts import check_metric as check_metric
    from bnstudy.analysis.verdicts import declared_family as declared_family

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "Family": "families",
        "check_metric": "verdicts",
        "contrast_table": "contrasts",
        "declared_family": "verdicts",
        "load": "results",
        "printed_tables": "summary",
        "provenance_lines": "provenance",
        "report_study": "command",
        "reported": "results",
        "study_tables": "tables",
        "subject_of": "subject",
        "write_results": "results",
    },
)

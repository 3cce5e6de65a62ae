"""A run's decoders compared: read its curves, study them, and show it as text, JSON, CSV, HTML.

Files go into one folder (RUN/decoders by default): `decoders.csv`, a row per kind and way of
choosing, and `decoders.html`. They are views: nothing of the run is changed, and a run of the
recipe never reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from data.errors import ConfigError, StoreError
from data.stages.files import replacing
from models.family import family_of
from models.report.scores import TITLES, number
from models.runs.files import RunFiles, done_folds, fold_keys
from models.scores.decoders import KINDS, MATCHERS, Kind
from models.scores.decoding import KIND_WORDS, DecoderRow, Study, study

if TYPE_CHECKING:
    from models.scores.bootstrap import Difference

TEMPLATE = Path(__file__).with_name("decoding.html.j2")
HOW = {
    "as set": "as the recipe sets it",
    "nested": "chosen for each person on the other people",
    "best": "chosen on the people it is scored on: flattering",
}


@dataclass(frozen=True)
class RunDecoders:
    """A run and what its curves say of decoders."""

    run: RunFiles
    study: Study

    def verdict(self) -> str:
        """What the differences to the native decoder allow to say."""
        nested = [row for row in self.study.rows if row.how == "nested"]
        better = [row.kind for row in nested if row.against_native and row.against_native.low > 0]
        worse = [row.kind for row in nested if row.against_native and row.against_native.high < 0]
        if better:
            return (
                f"Better than the recipe's decoder also on people it was not chosen on: "
                f"{', '.join(better)} (the interval of the difference excludes 0)."
            )
        said = "No kind is better than the recipe's decoder on people it was not chosen on"
        more = f"; {', '.join(worse)} are worse" if worse else ""
        return f"{said}: every interval reaches 0{more}." if not worse else f"{said}{more}."

    def facts(self) -> str:
        """Sizes."""
        s = self.study
        return (
            f"{s.decoders} decoders on {s.videos} videos of {s.people} people with {s.events} "
            f"events; chosen by {TITLES[s.objective][0]} under the matcher {s.matcher}"
        )

    def table(self) -> pd.DataFrame:
        """A row per kind and way of choosing; NaN where nothing was measured."""
        return pd.DataFrame([_plain(row) for row in self.study.rows])

    def to_text(self) -> str:
        """For a terminal."""
        s = self.study
        title = TITLES[s.objective][0]
        head = ["decoder", "chosen", title, "95 %", "− native", "95 %", "TP/FP/FN", "STRS",
                *MATCHERS]  # fmt: skip
        lines = [self.facts(), "", *_columns([head, *(_cells(row) for row in s.rows)]), ""]
        lines += [f"{how}: {HOW[how]}" for how in ("nested", "best")]
        lines += [f"{', '.join(MATCHERS)}: spotting F1 under each matcher", self.verdict()]
        if self.run.recipe.expected != "not found":
            lines += ["", f"To compare with: {self.run.recipe.expected.strip()}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""
        s = self.study
        rows = [
            {**{k: _null(v) for k, v in _plain(row).items()}, "decoders": row.chosen}
            for row in s.rows
        ]
        pairs = [{"first": a, "second": b, **_difference(d)} for a, b, d in s.pairs]
        return {
            "recipe": self.run.recipe.name,
            "run_id": self.run.folder.name,
            "objective": s.objective,
            "matcher": s.matcher,
            "people": s.people,
            "videos": s.videos,
            "events": s.events,
            "decoders": s.decoders,
            "rows": rows,
            "differences": pairs,
            "verdict": self.verdict(),
            "expected": self.run.recipe.expected,
        }

    def write(self, folder: Path) -> list[Path]:
        """decoders.csv and decoders.html into `folder`; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "decoders.csv", folder / "decoders.html"
        with replacing(paths[0]) as temporary:
            self.table().to_csv(temporary, index=False)
        with replacing(paths[1]) as temporary:
            temporary.write_text(self.render(), encoding="utf-8")
        return list(paths)

    def render(self) -> str:
        """One HTML page that loads nothing."""
        from jinja2 import Environment, StrictUndefined

        from data.pictures.drawing import svg_uri

        s = self.study
        title = TITLES[s.objective][0]
        page = {
            "recipe": self.run.recipe.name,
            "run_id": self.run.folder.name,
            "facts": self.facts(),
            "verdict": self.verdict(),
            "note": f"nested: {HOW['nested']}. best: {HOW['best']}. The networks behind other "
            "people's curves were trained on this person too; only the decoder is chosen here. "
            "Intervals are bootstrapped over people with the choices held fixed.",
            "picture": svg_uri(choice_figure(s.rows, title)),
            "head": ["decoder", "chosen", title, "95 %", "− native", "95 %", "TP/FP/FN", "STRS",
                     *(f"F1 {m}" for m in MATCHERS)],
            "rows": [_cells(row) for row in s.rows],
            "pairs": [
                [a, b, f"{d.value:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}"] for a, b, d in s.pairs
            ],
            "chosen": [
                [row.kind, label, str(people)]
                for row in s.rows if row.how != "best" for label, people in row.chosen.items()
            ],
            "expected": "" if self.run.recipe.expected == "not found"
            else self.run.recipe.expected,
        }  # fmt: skip
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        text = TEMPLATE.read_text(encoding="utf-8")
        return environment.from_string(text).render(page)


def decode_run(
    run: RunFiles, kinds: Sequence[str] = KINDS, objective: str = "spotting_f1"
) -> RunDecoders:
    """Study the decoders of a trained run of a spotting network; nothing is trained.

    Raises ConfigError for a run without curves or an unknown kind, StoreError for a damaged fold.
    """
    recipe = run.recipe
    if not family_of(recipe).spots:
        raise ConfigError(
            f"decode {run.folder.name}",
            expected="a run of a network that spots, such as ME-TST or ME-TST+",
            got=f"a run of {recipe.network_name}",
            todo="It classifies given clips: there are no curves to decode.",
        )
    from models.me_tst.curves import read_curves
    from models.me_tst.fold import protocol_of

    if damaged := sorted(set(fold_keys(run.folder)) - done_folds(run.folder)):
        raise StoreError(
            str(run.folder),
            expected="every fold as it was published",
            got=f"missing or altered files in {', '.join(damaged)}",
            todo="Run the recipe again: what is altered is made anew.",
            code="damaged_run",
        )
    curves = [one for fold in run.folds for one in read_curves(fold / "curves.h5")]
    train: Any = recipe.train
    found = study(
        curves,
        protocol_of(recipe.decode, train),
        kinds=[_known(kind) for kind in kinds],
        objective=objective,
        draws=recipe.decode.draws,
        seed=recipe.seed,
    )
    return RunDecoders(run, found)


def _known(word: str) -> Kind:
    for kind in KINDS:
        if kind == word:
            return kind
    known = ", ".join(f"{kind} ({KIND_WORDS[kind]})" for kind in KINDS)
    raise ConfigError("decode --kind", expected=f"one of {known}", got=word[:80])


def choice_figure(rows: Sequence[DecoderRow], title: str) -> Any:
    """Nested choices with their intervals beside the native decoder and the flattering best."""
    from data.pictures import drawing

    native = rows[0]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    fig, (axis,) = drawing.figure(860, 60 + 34 * len(kinds))
    axis.grid(True, axis="x", color=drawing.GRID, linewidth=0.6)
    axis.grid(False, axis="y")
    axis.axvline(native.value, color=drawing.MUTED, linewidth=1, linestyle=":", label="native")
    for row in rows:
        y = len(kinds) - kinds.index(row.kind)
        if row.how == "best":
            axis.plot([row.value], [y], "D", ms=5, mfc="none", mec=drawing.ORANGE,
                      label="best on the tested people")  # fmt: skip
            continue
        if row.low == row.low:
            axis.plot([row.low, row.high], [y, y], color=drawing.BLUE, linewidth=5, alpha=0.25)
        axis.plot([row.value], [y], "o", ms=7, color=drawing.BLUE, label="chosen on other people")
    axis.set_yticks(range(1, len(kinds) + 1), kinds[::-1])
    axis.set_xlabel(title)
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once.keys(), frameon=False, fontsize=8, loc="lower right")
    return fig


def _plain(row: DecoderRow) -> dict[str, Any]:
    """A row of the CSV."""
    gap = row.against_native
    nan = float("nan")
    return {
        "kind": row.kind,
        "how": row.how,
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "minus_native": gap.value if gap else nan,
        "minus_native_low": gap.low if gap else nan,
        "minus_native_high": gap.high if gap else nan,
        "share_of_draws_better": gap.share_above if gap else nan,
        "tp": row.tp,
        "fp": row.fp,
        "fn": row.fn,
        "strs": row.strs,
        **{f"f1_{matcher}": value for matcher, value in row.f1.items()},
        "most_chosen": next(iter(row.chosen)),
        "people_with_it": next(iter(row.chosen.values())),
    }


def _difference(gap: Difference) -> dict[str, float | None]:
    names = ("value", "low", "high", "share_above")
    return {name: _null(getattr(gap, name)) for name in names}


def _cells(row: DecoderRow) -> list[str]:
    gap = row.against_native
    between = f"{number(row.low, 3)}–{number(row.high, 3)}" if row.low == row.low else "–"
    known = gap is not None and gap.low == gap.low
    return [
        row.kind,
        row.how,
        number(row.value, 3),
        between,
        f"{gap.value:+.3f}" if gap else "–",
        f"{gap.low:+.3f} to {gap.high:+.3f}" if gap and known else "–",
        f"{row.tp}/{row.fp}/{row.fn}",
        number(row.strs, 3),
        *(number(row.f1[m], 3) for m in MATCHERS),
    ]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value

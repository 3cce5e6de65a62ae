"""HSTA on synthetic clips against logistic regression on flow, in the same folds.

    python -m flows synthesize casme2 DATA --preset default
    python -m flows run hsta_cpu --workspace WS --data casme2=DATA --stage ingest --stage align \
        --stage apex --stage flow
    python tests/benchmarks/bench_hsta_synthetic.py --workspace WS [--folds 4] [--json PATH]

The opponent reads u and v of onset→apex averaged in 8 × 8 cells (128 numbers over one deviation of
the training side; C = 1, within a point of the best of 0.1 .. 10). Both see the same folds without
shared subjects (subject k-fold, or `--folds 0`: leave one subject out). Scores are pooled over
folds; intervals and differences are 95 % percentiles of a bootstrap over subjects, the difference
paired. Seconds are CPU time of one fold's training and test.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.folds import leave_one_subject_out, subject_kfold
from data.stages.stores import StageStore, read_table
from models.fitting import seed_everything
from models.hsta.clips import ClipBank, read_clips, read_special_flow
from models.hsta.many import fit
from models.hsta.network import create
from models.hsta.training import predict
from models.metrics import confusion_counts, recognition_from_counts
from models.recipe import load_recipe
from models.scores.bootstrap import group_counts, paired_difference, subject_interval

CELLS = 8


def load_events(arguments: argparse.Namespace) -> Any:
    """Micro-expressions with a label and flow, and their folds as positions."""
    events = read_table(arguments.workspace / arguments.dataset / "ingest" / "events.parquet")
    flow = StageStore(arguments.workspace, arguments.dataset, "flow")
    keep = (events.type == "micro") & events[arguments.labels].notna()
    keep &= events.event.isin(flow.units())
    events = events[keep].reset_index(drop=True)
    split = (
        subject_kfold(events, arguments.folds, 0)
        if arguments.folds
        else leave_one_subject_out(events)
    )
    where = {name: i for i, name in enumerate(events.event)}
    folds = [
        ([where[e.split(":")[-1]] for e in train], [where[e.split(":")[-1]] for e in test])
        for train, test in split.folds.values()
    ]
    return events, folds


def flow_features(arguments: argparse.Namespace, events: Any) -> Any:
    """(events, 128): mean u and v of onset→apex in 8 × 8 cells."""
    store = StageStore(arguments.workspace, arguments.dataset, "flow")
    rows = []
    for event in events.event:
        with store.open(event) as group:
            rows.append(read_special_flow(group, group["flow"].shape[1])[0, :2])
    store.close()
    fields = np.stack(rows)
    side = fields.shape[-1] // CELLS * CELLS
    cells = fields[..., :side, :side].reshape(len(fields), 2, CELLS, side // CELLS, CELLS, -1)
    return cells.mean(axis=(3, 5)).reshape(len(fields), -1)


def run_regression(features: Any, labels: Any, folds: Any) -> tuple[Any, float]:
    """Predicted classes of all events, each by the fold that did not see its subject."""
    guesses, started = np.zeros(len(labels), np.int64), time.process_time()
    for train, test in folds:
        unit = features[train].std()
        model = LogisticRegression(C=1.0, max_iter=5000)
        model.fit(features[train] / unit, labels[train])
        guesses[test] = model.predict(features[test] / unit)
    return guesses, (time.process_time() - started) / len(folds)


def run_hsta(
    bank: ClipBank, recipe: Any, classes: int, folds: Any, seed: int, label: str
) -> tuple[Any, float, list[float]]:
    """As `run_regression`, with the recipe's network; also the last training scores."""
    guesses, started = np.zeros(len(bank), np.int64), time.process_time()
    fitted = []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for number, (train, test) in enumerate(folds):
        seed_everything(seed)
        model = create(recipe.model.model_copy(update={"num_classes": classes}))
        facts: dict[str, Any] = {"seed": seed, "device": device}
        facts["scale"] = bank.scale(train, recipe.train.input.pixels)
        done = fit(model, bank, train, recipe.train, **facts)
        guesses[test] = predict(model, bank, test, recipe.train, **facts).argmax(1)
        fitted.append(done.history[-1]["train_uf1"])
        print(f"  {label}, fold {number + 1} of {len(folds)}", file=sys.stderr, flush=True)
    return guesses, (time.process_time() - started) / len(folds), fitted


def counts_of(guesses: Any, labels: Any, people: Any, classes: int) -> Any:
    names = list(range(classes))
    each = np.stack(
        [confusion_counts([t], [g], names) for t, g in zip(labels, guesses, strict=True)]
    )
    return group_counts(list(people), each)[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workspace", type=Path, help="prepared as the module's first lines say")
    parser.add_argument("--dataset", default="casme2")
    parser.add_argument("--labels", default="label_5")
    parser.add_argument("--recipe", default="hsta_cpu")
    parser.add_argument("--special", nargs="*", default=["flow", "frames"])
    parser.add_argument("--folds", type=int, default=4, help="subject folds; 0: one per subject")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON")
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args(argv)
    if arguments.workspace is None:
        print("skipped: needs --workspace, and an hour; prepare it so:\n", __doc__.split("\n\n")[1])
        return 0
    changes = {k: json.loads(v) for k, v in (item.split("=", 1) for item in arguments.set)}

    events, folds = load_events(arguments)
    classes = sorted(set(events[arguments.labels]))
    labels = np.array([classes.index(v) for v in events[arguments.labels]])
    people, names = list(events.person), list(range(len(classes)))

    def uf1(counts: Any) -> float:
        return float(recognition_from_counts(counts, names).uf1)

    results = {}
    guesses, seconds = run_regression(flow_features(arguments, events), labels, folds)
    results["regression"] = (counts_of(guesses, labels, people, len(classes)), seconds, [])
    for special in arguments.special:
        recipe = load_recipe(arguments.recipe, {**changes, "model.special": special})
        bank = read_clips(
            arguments.workspace, events, list(labels), recipe.model, recipe.train.input
        )
        guesses, seconds, fitted = run_hsta(
            bank, recipe, len(classes), folds, arguments.seed, f"hsta {special}"
        )
        counts = counts_of(guesses, labels, people, len(classes))
        results[f"hsta {special}"] = (counts, seconds, fitted)

    rows = []
    for name, (counts, seconds, fitted) in results.items():
        score = recognition_from_counts(counts.sum(0), names)
        interval = subject_interval(counts, uf1)
        gap = paired_difference(counts, results["regression"][0], uf1)
        rows.append(
            {
                "method": name,
                "uf1": score.uf1,
                "low": interval.low,
                "high": interval.high,
                "uar": score.uar,
                "accuracy": score.accuracy,
                "difference": gap.value,
                "difference_low": gap.low,
                "difference_high": gap.high,
                "train_uf1": float(np.mean(fitted)) if fitted else None,
                "seconds_per_fold": seconds,
                "confusion": counts.sum(0).tolist(),
            }
        )
    support = np.bincount(labels)
    facts = {
        "clips": len(labels),
        "subjects": len(set(people)),
        "classes": dict(zip(classes, support.tolist(), strict=True)),
        "folds": len(folds),
        "chance_uar": 1 / len(classes),
        "majority_accuracy": float(support.max() / support.sum()),
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
        "recipe": arguments.recipe,
        "set": arguments.set,
    }
    print(json.dumps(facts))
    print(
        f"{'method':<14}{'UF1':>7}{'95 %':>16}{'UAR':>7}{'gap':>8}{'95 %':>18}"
        f"{'train':>7}{'s/fold':>8}"
    )
    for row in rows:
        print(
            f"{row['method']:<14}{row['uf1']:>7.3f}{row['low']:>9.3f} – {row['high']:.3f}"
            f"{row['uar']:>7.3f}{row['difference']:>+8.3f}"
            f"{row['difference_low']:>+10.3f} – {row['difference_high']:+.3f}"
            f"{row['train_uf1'] or float('nan'):>7.3f}{row['seconds_per_fold']:>8.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({**facts, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

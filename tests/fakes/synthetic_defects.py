"""Planted defects of synthetic datasets against the ledger: what was missed, what was invented."""

from __future__ import annotations

from data.datasets import open_dataset
from data.synthetic import load_truth

# planted kind -> (reasons any of which says so, reasons that may come with it)
FOUND_AS: dict[str, tuple[set[str], set[str]]] = {
    "apex_before_onset": ({"apex_outside"}, set()),
    "apex_blank": ({"apex_missing", "offset_missing"}, set()),
    "apex_is_offset": ({"apex_equals_offset"}, set()),
    "apex_is_onset": ({"apex_equals_onset"}, set()),
    "apex_missing": ({"apex_missing"}, set()),
    "apex_outside": ({"apex_outside"}, set()),
    "apex_past_offset": ({"apex_outside"}, set()),
    "apex_symbol": ({"apex_missing"}, set()),
    "apex_zero": ({"apex_missing"}, set()),
    "bad_fps": ({"bad_fps"}, set()),
    "case_differs": ({"case_differs"}, {"upper_case_video"}),
    "duplicate_filename": ({"repeated_key"}, set()),
    "empty_file": ({"zero_byte_file"}, set()),
    "exchanged_columns": ({"au_columns_differ", "emotion_columns_differ"}, set()),
    "first_frame_note": ({"note_in_a_number"}, set()),
    "interval_past_end": ({"outside_video"}, set()),
    "missing_frame": ({"number_gaps"}, {"clip_length_differs"}),
    "missing_video": ({"video_missing"}, {"permission_denied", "no_such_folder"}),
    "misplaced_video": ({"misplaced_video"}, set()),
    "offset_before_onset": ({"offset_before_onset"}, {"total_differs"}),
    "offset_far": ({"implausible_length"}, {"offset_past_last_frame"}),
    "offset_past_end": ({"offset_past_last_frame"}, set()),
    "offset_wrong": ({"total_differs"}, {"clip_longer_than_event"}),
    "offset_zero": ({"offset_missing"}, set()),
    "onset_after_offset": ({"offset_before_onset"}, set()),
    "onset_far_from_first": ({"onset_far_from_first_frame"}, {"outside_video"}),
    "onset_wrong": ({"total_differs"}, {"clip_longer_than_event"}),
    "onset_zero": ({"onset_before_first_frame"}, {"apex_equals_onset", "apex_outside_video"}),
    "path_absolute": ({"path_outside_root"}, set()),
    "path_outside": ({"path_outside_root"}, set()),
    "stray_file": ({"stray_file"}, set()),
    "text_row": ({"not_an_annotation"}, set()),
    "truncated_film": ({"unreadable_video"}, {"video_missing"}),
    "truncated_image": ({"truncated_file"}, set()),
    "uncut_numbers": ({"numbers_of_uncut_video"}, set()),
    "unknown_aus": ({"au_uncertain"}, set()),
    "unknown_type": ({"unknown_type"}, set()),
    "upper_case_video": ({"upper_case_video"}, set()),
}
NO_DEFECT = {"nested_folder"}  # rule: never trust folder depth; the adapters just read it
NATURAL = {
    "samm_lv": {"fractional_frame_number"},  # the real sheet has 178 such rows
    "casme3:v1": {"old_sheet_version"},
}


def matches(defect, unit: str, detail: str, folders: dict[str, str]) -> bool:
    """Whether a ledger row is about what a planted defect concerns."""
    who = defect["who"]
    if defect["kind"] == "duplicate_filename":
        return unit == defect["new"]
    if who.startswith(("row ", "sheet ")):
        return unit.endswith(who)
    if defect["kind"] in ("truncated_image", "empty_file"):
        folder, _, file = who.rpartition("/")
        return unit == folders[folder] and file in detail
    return unit == who or unit.startswith((f"{who}_", f"{who}#")) or (
        defect["kind"] == "case_differs" and unit.casefold().startswith(who.casefold())
    )  # fmt: skip


def unexplained(name, root) -> tuple[list, list]:
    """(planted defects without a ledger row, ledger rows without a planted defect).

    `name` is a layout or `layout:variant`.
    """
    truth = load_truth(root)
    folders = {v["folder"]: v["video"] for v in truth.record["videos"]}
    ledger = list(open_dataset(name.partition(":")[0], root).ledger.itertuples())
    natural = NATURAL.get(name, set())
    missed, explained = [], set()
    for defect in (d for d in truth.defects if d["kind"] not in NO_DEFECT):
        reasons, beside = FOUND_AS[defect["kind"]]
        about = [r for r in ledger if matches(defect, r.unit, r.detail, folders)]
        if not any(r.reason in reasons for r in about):
            missed.append(defect)
        explained |= {r.Index for r in about if r.reason in reasons | beside}
    invented = [r for r in ledger if r.Index not in explained and r.reason not in natural]
    return missed, invented

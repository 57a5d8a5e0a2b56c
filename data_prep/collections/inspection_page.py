"""The page of an inspection, in Markdown, and the list of copies beside it."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from vqlm.data_prep.captions.check import caption_rows
from vqlm.data_prep.collections.inspection import CollectionInspection
from vqlm.data_prep.sources.rows import TABLE_ROWS

COPIES_SHOWN = 20


def size_summary(sizes: Counter[tuple[int, int]]) -> dict[str, str]:
    """Sizes of the smallest, median and largest picture by area, and the most common size."""
    by_area = sorted(((w * h, (w, h), count) for (w, h), count in sizes.items() if w), key=lambda item: item[0])
    if not by_area:
        return {}
    middle, passed = sum(count for *_, count in by_area) / 2, 0
    median = by_area[-1][1]
    for _, pair, count in by_area:
        passed += count
        if passed >= middle:
            median = pair
            break
    commonest = max(by_area, key=lambda item: item[2])[1]
    shown = {"smallest": by_area[0][1], "median": median, "largest": by_area[-1][1], "most common": commonest}
    return {name: f"{width}x{height}" for name, (width, height) in shown.items()}


def aspect_table(sizes: Counter[tuple[int, int]]) -> dict[str, int]:
    """Number of pictures by width / height."""
    table: dict[str, int] = defaultdict(int)
    bounds: Sequence[tuple[float, str]] = (
        (0.5, "taller than 1:2"), (0.8, "1:2 to 4:5"), (1.25, "about square"), (2.0, "5:4 to 2:1"),
    )  # fmt: skip
    for (width, height), count in sizes.items():
        if width:
            table[next((name for bound, name in bounds if width / height < bound), "wider than 2:1")] += count
    return {name: table[name] for name in [*(name for _, name in bounds), "wider than 2:1"] if table[name]}


def page(inspection: CollectionInspection, wrong: list[str], remarks: list[str]) -> str:
    """The report in Markdown: faults and remarks, then figures; it shows samples.png beside it."""
    lengths = sorted(inspection.lengths.elements())
    rows = {
        "pictures that can be used": inspection.usable,
        **{f"of them {split}": count for split, count in inspection.splits.items()},
        "captions": inspection.num_captions,
        **caption_rows(inspection.text),
        "unusable": len(inspection.skipped.rows),
        **inspection.skipped.left_out_by_reason(),
        "held-out pictures with captions that are also trained on": inspection.seen_captions,
        **{f"format {kind}": count for kind, count in inspection.kinds.most_common()},
        **{f"size, {name}": text for name, text in size_summary(inspection.sizes).items()},
        **aspect_table(inspection.sizes),
        "cropped to the middle": inspection.cropped.total(),
        "copies of another picture": inspection.copies,
        "held out and trained on": inspection.leaked,
        "of nearly one colour": len(inspection.near_constant),
    }
    if lengths:
        middle, most = lengths[len(lengths) // 2], lengths[int(0.99 * len(lengths))]
        rows["caption length in tokens: median, 99%, longest"] = f"{middle}, {most}, {lengths[-1]}"
    lines = ["# Inspection of a collection", ""]
    lines += [f"- **wrong**: {text}" for text in wrong] + [f"- {text}" for text in remarks]
    lines += ["Nothing is wrong."] if not wrong and not remarks else []
    lines += ["", "| figure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    if inspection.text.commonest:
        lines += ["", "| pictures | with the caption |", "|---|---|"]
        lines += [f"| {count} | {_in_table(caption)} |" for caption, count in inspection.text.commonest]
    if inspection.copies_of:
        lines += ["", "| picture | has the pixels of |", "|---|---|"]
        lines += [f"| {_in_table(copy)} | {_in_table(first)} |" for copy, first in inspection.copies_of[:COPIES_SHOWN]]
        more = inspection.copies - COPIES_SHOWN
        lines += ["", f"{more} more are listed in copies.jsonl."] if more > 0 else []
    if inspection.files:
        lines += ["", "| files | of which kind |", "|---|---|"]
        lines += [f"| {count} | {kind} |" for kind, count in sorted(inspection.files.items()) if count]
        total = sum(count for kind, count in inspection.files.items() if kind != TABLE_ROWS)
        lines += ["", f"{total} files in all; {inspection.skipped.seen} rows came of them, of which "
                  f"{inspection.usable} can be used."]  # fmt: skip
    if inspection.skipped.rows:
        reasons = Counter(row.reason for row in inspection.skipped.rows)
        lines += ["", "| pictures | why they cannot be used |", "|---|---|"]
        lines += [f"| {count} | {reason} |" for reason, count in reasons.most_common(20)]
    lines += ["", "Some of the pictures, as the model will see them:", "", "![samples](samples.png)"]
    return "\n".join(lines) + "\n"


def write_copies(inspection: CollectionInspection, path: Path) -> None:
    """One JSON line {key, same_as} per picture that is a copy of an earlier one."""
    lines = [json.dumps({"key": key, "same_as": first}, ensure_ascii=False) for key, first in inspection.copies_of]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")

"""What is wrong with a collection? A page with findings; the exit status is 1 if training on it would go wrong.

vqlm inspect-data --data my_pictures --output runs/inspection
"""

import sys
from collections import Counter
from pathlib import Path

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, FINDINGS_FILE, CollectionConfig, TextConfig
from vqlm.scripts.opening import open_collection
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import require_range
from vqlm.training.folders.output_folder import require_output
from vqlm.training.folders.whole_files import write_json

STAGE_TWO = ("long_captions",)  # options of `vqlm train-lm` that the page speaks of


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument(
        "--output", type=Path, required=True, help="Folder for inspection.md, its pictures and findings.json."
    )
    parser.add_argument("--image_size", type=int, default=64, help="Side of the model's pictures, in pixels.")
    parser.add_argument("--max_caption_tokens", type=int, default=64, help="The longest caption of stage two.")
    parser.add_argument("--num_workers", type=int, help="Processes that decode; by default one fewer than cores.")
    parser.add_class_arguments(CollectionConfig)
    parser.add_class_arguments(TextConfig, "text")
    settings = parser.parse_args(arguments)
    require_range(settings, "[1, inf)", "image_size", "max_caption_tokens")
    require_range(settings, "[0, inf)", "num_workers")
    require_output(settings.output, can_resume=False)
    require_data(settings.data)

    from vqlm.data_prep import Vocabulary
    from vqlm.data_prep.collections.inspection import (
        COPIES_FILE,
        UNUSABLE_FILE,
        findings,
        inspect_collection,
        leak_finding,
    )
    from vqlm.data_prep.collections.inspection_page import page, write_copies
    from vqlm.data_prep.pictures.sheets import sample_sheet
    from vqlm.vq import to_pixel_values

    size = (settings.image_size, settings.image_size)
    collection = open_collection(settings, settings.image_size)
    inspection = inspect_collection(collection, size, settings.num_workers)
    if inspection.captions:
        inspection.lengths = Counter(
            Vocabulary.build(inspection.captions, settings.text, {}).count_tokens(inspection.captions)
        )
    wrong, remarks = findings(inspection, size, settings.max_caption_tokens, settings.output)
    settings.output.mkdir(parents=True, exist_ok=True)
    if inspection.samples:
        cells = [(caption, [to_pixel_values(picture[None])[0]]) for caption, picture in inspection.samples]
        sample_sheet(cells, columns=6).save(settings.output / "samples.png")
    inspection.skipped.write(settings.output / UNUSABLE_FILE)
    write_copies(inspection, settings.output / COPIES_FILE)
    # Without the copies a collection is right, unless it is mostly copies.
    is_repairable = inspection.copies <= inspection.usable / 2
    repairable = [text for text in wrong if is_repairable and text == leak_finding(inspection)]
    wrong, remarks, repairable = (
        [parser.in_options(sentence, STAGE_TWO) for sentence in each] for each in (wrong, remarks, repairable)
    )
    text = page(inspection, wrong, remarks)
    (settings.output / "inspection.md").write_text(text, encoding="utf-8")
    write_json(settings.output / FINDINGS_FILE, {"wrong": wrong, "remarks": remarks, "drop_copies": repairable})
    print(text, flush=True)
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)

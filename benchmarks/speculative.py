"""How many forwards, and how much time, does speculative drawing of single pictures save on a finished model?

    python benchmarks/speculative.py --model outputs/demo/model --data outputs/demo/data

Prompts of the held-out splits, one picture at a time, in turns with plain and with compiled drawing. The saving depends
on how sure the model is of its codes, so an untrained model would say nothing.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from measure import Report, Spread, in_turns, parser, ratio
from torch import Tensor

from vqlm.data_prep import PreparedSet
from vqlm.data_prep.sequences import caption_ids, prompt_ids
from vqlm.lm import TextToImagePipeline
from vqlm.lm.decoding.draw import draw_codes
from vqlm.lm.decoding.speculative import draw_speculatively
from vqlm.lm.settings import DecodingOptions, SamplingConfig

PLAIN, COMPILED = "one by one", "one by one, compiled"
WINDOWS = (4, 8, 16)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder that train_lm.py finished")
    options.add_argument("--data", type=Path, required=True, help="folder that vqlm prepare wrote")
    options.add_argument("--prompts", type=int, default=8, help="prompts of each held-out split")
    options.add_argument("--rounds", type=int, default=3, help="rounds over all prompts")
    options = options.parse_args(arguments)
    pipeline, prepared = TextToImagePipeline.from_pretrained(options.model), PreparedSet.load(options.data)
    captions = [
        texts[0] for split in prepared.held_out for texts in prepared.pictured(split, options.prompts)["captions"]
    ]
    rows = prompt_ids(pipeline.vocabulary, caption_ids(pipeline.vocabulary, captions, pipeline.max_caption_tokens))
    report = Report("speculative", __doc__, options)
    table = report.table(
        "One picture at a time", ["drawn", "by", "forwards per picture", "s per picture", "plain / it"]
    )
    saved = pipeline.sampling
    for title, settings in {"as saved": saved, "as saved, temperature 1": replace(saved, temperature=1.0)}.items():
        counts: dict[str, list[int]] = {}
        tasks = {PLAIN: partial(draw_plainly, pipeline, rows, settings, False)}
        if not options.tiny:
            tasks[COMPILED] = partial(draw_plainly, pipeline, rows, settings, True)
        for window in WINDOWS:
            name = f"{window} at a time"
            counts[name] = []
            tasks[name] = partial(draw_guessing, pipeline, rows, settings, window, counts[name])
        timings = in_turns(tasks, options.rounds)
        for name, seconds in timings.items():
            forwards = sum(counts[name]) / len(counts[name]) if name in counts else prepared.tokens_per_image
            spread = Spread.of(value / len(rows) for value in seconds)
            table.row(title, name, forwards, spread, ratio(timings[PLAIN], seconds))
    return report.save()


def draw_plainly(pipeline: TextToImagePipeline, rows: list[list[int]], settings: SamplingConfig, compile: bool) -> None:
    codes, options = pipeline.image_tokenizer.config.tokens_per_image, DecodingOptions(compile=compile)
    for row in rows:
        draw_codes(pipeline.model, pipeline.vocabulary, [row], codes, settings, options=options)


def draw_guessing(
    pipeline: TextToImagePipeline, rows: list[list[int]], settings: SamplingConfig, window: int, counts: list[int]
) -> list[Tensor]:
    codes = pipeline.image_tokenizer.config.tokens_per_image
    drawings = [draw_speculatively(pipeline.model, pipeline.vocabulary, row, codes, settings, window) for row in rows]
    counts += [forwards for _, forwards in drawings]
    return [drawn for drawn, _ in drawings]


if __name__ == "__main__":
    main()

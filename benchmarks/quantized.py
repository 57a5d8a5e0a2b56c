"""What do bf16 and int8 weights for drawing cost a finished model in likelihood, and what do they win in time?

    python benchmarks/quantized.py --model outputs/demo/model --data outputs/demo/data

NLL: nats a code of held-out pictures given their captions, each code asked of the decoder that draws, step by step.
Time: drawing with the settings that the model was saved with, in turns. drawing.py has the times of a larger model.
"""

import copy
from functools import partial
from pathlib import Path

import torch
from measure import Report, Spread, in_turns, parser, ratio
from torch import Tensor

from data_prep import PreparedSet
from data_prep.sequences import left_pad
from lm import TextToImagePipeline
from lm.decoders import build_decoder
from lm.decoding import draw_codes
from lm.packed import require_int8
from training.errors import UserError

ROWS_AT_ONCE = 64
PLAIN = "fp32"
WAYS: dict[str, tuple[torch.dtype, dict]] = {
    PLAIN: (torch.float32, {}),
    "bf16": (torch.bfloat16, {}),
    "bf16, compiled": (torch.bfloat16, {"compile": True}),
    "int8": (torch.bfloat16, {"quantize": "int8"}),
    "int8, compiled": (torch.bfloat16, {"quantize": "int8", "compile": True}),
}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder that train_lm.py finished")
    options.add_argument("--data", type=Path, required=True, help="folder that prepare_data.py wrote")
    options.add_argument("--pictures", type=int, default=16, help="drawn at once")
    options.add_argument("--rounds", type=int, default=5, help="of drawing")
    options = options.parse_args(arguments)
    pipeline, prepared = TextToImagePipeline.from_pretrained(options.model), PreparedSet.load(options.data)
    models = {dtype: copy.deepcopy(pipeline.model).to(dtype) for dtype in (torch.float32, torch.bfloat16)}  # type: ignore[arg-type]
    report = Report("quantized", __doc__, options)
    ways = {name: way for name, way in WAYS.items() if not (options.tiny and "compile" in way[1])}
    try:
        require_int8(pipeline.model.device)
    except UserError as error:
        report.remark(f"int8 is left out: {error}")
        ways = {name: way for name, way in ways.items() if "quantize" not in way[1]}

    table = report.table("Held-out NLL, nats a code", ["weights", *prepared.held_out])
    nlls: dict[str, list[float]] = {name: [] for name in ways}
    for split in prepared.held_out:
        rows = prepared.pictured(split, 1000)
        prompts, codes = pipeline._prompt_ids([own[0] for own in rows["captions"]]), prepared.codes_of(rows)
        for name, (dtype, way) in ways.items():
            nlls[name].append(nll_of(models[dtype], pipeline, prompts, codes, way))
    for name, values in nlls.items():
        table.row(
            name, *(f"{nll:.4f} ({nll / plain - 1:+.2%})" for nll, plain in zip(values, nlls[PLAIN], strict=True))
        )

    captions = [own[0] for split in prepared.held_out for own in prepared.pictured(split, options.pictures)["captions"]]
    prompts = pipeline._prompt_ids(captions[: options.pictures])
    count = pipeline.image_tokenizer.config.tokens_per_image
    tasks = {
        name: partial(draw_codes, models[dtype], pipeline.vocabulary, prompts, count, pipeline.sampling, **way)
        for name, (dtype, way) in ways.items()
    }
    found = in_turns(tasks, options.rounds)
    table = report.table(f"Drawing {len(prompts)} pictures of {count} codes", ["weights", "s", "fp32 / it"])
    for name, seconds in found.items():
        table.row(name, Spread.of(seconds), ratio(found[PLAIN], seconds))
    return report.save()


@torch.no_grad()
def nll_of(model, pipeline: TextToImagePipeline, prompts: list[list[int]], codes: Tensor, way: dict) -> float:
    """Mean over all codes (B, n), each given its prompt and the codes before it."""
    image, total = pipeline.vocabulary.image, 0.0
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        own = codes[start : start + ROWS_AT_ONCE]
        input_ids, mask, _ = left_pad(prompts[start : start + ROWS_AT_ONCE], pipeline.vocabulary.pad)
        decoder = build_decoder(model, slice(image.offset, image.stop), **way)
        logits = decoder.read(input_ids, mask, own.shape[1])
        for step, targets in enumerate(own.unbind(1)):
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            if step + 1 < own.shape[1]:
                logits = decoder.step(targets + image.offset)
    return total / codes.numel()


if __name__ == "__main__":
    main()

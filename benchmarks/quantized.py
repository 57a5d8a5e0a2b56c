"""How much likelihood do bf16 and int8 weights cost a finished model, and how much time do they save in drawing?

    python benchmarks/quantized.py --model outputs/demo/model --data outputs/demo/data

NLL: nats per code of held-out pictures given their first captions, computed step by step with the decoder that draws.
Time: drawing with the settings that the model was saved with, in turns. int8 rounds the weights of a bf16 model. The KV
cache has the model's precision where the decoder is compiled, else fp32. drawing.py has the times of a larger model.
"""

import copy
from functools import partial
from pathlib import Path

import torch
from measure import Report, Spread, choose, in_turns, parser, ratio
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep import PreparedSet, Vocabulary
from vqlm.data_prep.sequences import caption_ids, left_pad, prompt_ids
from vqlm.lm import TextToImagePipeline
from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.draw import draw_codes
from vqlm.lm.decoding.llama_decoder import is_llama_like
from vqlm.lm.decoding.packed_weights import require_int8
from vqlm.lm.evaluate.report import require_same_tokenizers
from vqlm.lm.settings import DecodingOptions
from vqlm.training.errors import UserError

MOST_PICTURES = 1000  # of a held-out split
ROWS_AT_ONCE = 50
PLAIN, INT8 = "fp32", "int8"
WAYS: dict[str, tuple[torch.dtype, dict]] = {
    PLAIN: (torch.float32, {}),
    "bf16": (torch.bfloat16, {}),
    INT8: (torch.bfloat16, {"quantize": "int8"}),
    "fp32, compiled": (torch.float32, {"compile": True}),
    "bf16, compiled": (torch.bfloat16, {"compile": True}),
    "int8, compiled": (torch.bfloat16, {"compile": True, "quantize": "int8"}),
}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="folder that train_lm.py finished")
    options.add_argument("--data", type=Path, required=True, help="folder that vqlm prepare wrote")
    options = options.parse_args(arguments)
    pictures, rounds, most = choose(options, (16, 7, MOST_PICTURES), (16, 2, 50), (2, 1, 3))
    pipeline, prepared = TextToImagePipeline.from_pretrained(options.model, "cpu"), PreparedSet.load(options.data)
    require_same_tokenizers(pipeline, prepared)
    model, vocabulary, longest = pipeline.model, pipeline.vocabulary, pipeline.max_caption_tokens
    models: dict[torch.dtype, PreTrainedModel] = {
        torch.float32: model,
        torch.bfloat16: copy.deepcopy(model).to(torch.bfloat16),  # type: ignore[arg-type]
    }
    report = Report("quantized", __doc__, options)
    ways = {name: way for name, way in WAYS.items() if not (options.tiny and "compile" in way[1])}
    if why := why_no_int8(model):
        report.remark(f"int8 is left out: {why}")
        ways = {name: way for name, way in ways.items() if "quantize" not in way[1]}

    table = report.table("Held-out NLL, nats per code", ["drawn with", *prepared.held_out])
    nlls: dict[str, list[float]] = {name: [] for name in ways}
    prompts: list[list[int]] = []
    for split in prepared.held_out:
        rows = prepared.pictured(split, most)
        prompt_rows = prompt_ids(
            vocabulary, caption_ids(vocabulary, [captions[0] for captions in rows["captions"]], longest)
        )
        prompts += prompt_rows[: -(-pictures // len(prepared.held_out))]
        for name, (dtype, way) in ways.items():
            nlls[name].append(nll_of(models[dtype], vocabulary, prompt_rows, prepared.codes_of(rows), way))
    for name, values in nlls.items():
        table.row(
            name, *(f"{nll:.4f} ({nll / plain - 1:+.2%})" for nll, plain in zip(values, nlls[PLAIN], strict=True))
        )

    settings, codes = pipeline.sampling, prepared.tokens_per_image
    tasks = {
        name: partial(
            draw_codes,
            models[dtype],
            vocabulary,
            prompts,
            codes,
            settings,
            options=DecodingOptions(batch_size=len(prompts), **way),
        )
        for name, (dtype, way) in ways.items()
    }
    timings = in_turns(tasks, rounds)
    title = f"Drawing {len(prompts)} pictures of {codes} codes, guidance {settings.guidance_scale:g}"
    table = report.table(title, ["drawn with", "s", "fp32 / it"])
    for name, seconds in timings.items():
        table.row(name, Spread.of(seconds), ratio(timings[PLAIN], seconds))
    return report.save()


def why_no_int8(model: PreTrainedModel) -> str | None:
    if not is_llama_like(model):
        return f"{type(model).__name__} is no plain llama or its like"
    try:
        require_int8(model.device)
    except UserError as error:
        return str(error)
    return None


@torch.no_grad()
def nll_of(model: PreTrainedModel, vocabulary: Vocabulary, prompts: list[list[int]], codes: Tensor, way: dict) -> float:
    """Mean NLL of all codes (B, n), each given its prompt and the codes before it."""
    image, total = vocabulary.image, 0.0
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        part = codes[start : start + ROWS_AT_ONCE]
        input_ids, mask, _ = left_pad(prompts[start : start + ROWS_AT_ONCE], vocabulary.pad)
        decoder = build_decoder(model, slice(image.offset, image.stop), DecodingOptions(**way))
        logits = decoder.read(input_ids, mask, part.shape[1])
        for step, targets in enumerate(part.unbind(1)):
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            if step + 1 < part.shape[1]:
                logits = decoder.step(targets + image.offset)
    return total / codes.numel()


if __name__ == "__main__":
    main()

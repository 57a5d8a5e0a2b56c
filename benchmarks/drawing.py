"""How fast are pictures drawn, and in how much memory, against transformers' generate and dalle-pytorch's DALLE?

    python benchmarks/drawing.py

Untrained models with the same weights draw codes only; one of ours rounds its weights to int8. `generate` runs with
`guidance_scale`, the negative prompt that our guidance uses, and the restrictions in a model folder's
generation_config.json, in bf16 and in fp32; the faster one counts. All sample at temperature 1 from all codes.
`--device cuda` measures time on a GPU.
Memory is the peak of the second call above what the process held before the first, so that a cached copy of the weights
counts. Each is measured in a new process that first draws with another model of the same size, so that torch and its
compiler do not count.
"""

import functools
import gc
from collections.abc import Callable
from typing import NamedTuple

import torch
from measure import Report, Spread, choose, in_child, in_turns, memory_megabytes, parser, peak_megabytes, ratio
from our_steps import CODEBOOK_SIZE, MODELS, TEXT_SIZE, Rows
from peer_dalle import PACKAGE, build_dalle, load, pad_texts
from transformers import GenerationConfig, PreTrainedModel

from vqlm.data_prep.sequences import caption_ids, left_pad, prompt_ids
from vqlm.lm.decoding.draw import draw_codes
from vqlm.lm.decoding.packed_weights import require_int8
from vqlm.lm.model import build_language_model
from vqlm.lm.settings import DecodingOptions, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.device import usable_device

# Further arguments of `draw_codes` for what is measured as "here"; all of ours run a bf16 model.
OURS, COMPILED, INT8 = "here", "here, compiled", "here, compiled, int8"
BF16, FP32 = "generate, bf16", "generate, fp32"
ENGINE: dict[str, dict] = {OURS: {}, COMPILED: {"compile": True}, INT8: {"compile": True, "quantize": "int8"}}
CPU = torch.device("cpu")
ENGINES = (OURS, COMPILED, INT8, BF16, FP32)


class Case(NamedTuple):
    """dalle: width and depth of a DALLE with about as many parameters, in the one case that runs it."""

    model: str
    pictures: int
    codes: int
    guidance: float
    rounds: int
    dalle: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        guided = "guided" if self.guidance != 1 else "not guided"
        return f"{self.model}, {self.pictures} {guided}, {self.codes} codes"


FULL = [
    Case("5M", 16, 64, 3.0, 5, (256, 4)),
    Case("85M", 4, 256, 3.0, 2),
    Case("5M", 1, 64, 1.0, 7),
]
QUICK = [Case("5M", 16, 64, 3.0, 2, (256, 4)), Case("85M", 4, 16, 3.0, 1), Case("5M", 1, 64, 1.0, 3)]
TINY = [Case("tiny", 2, 4, 3.0, 1, (64, 1)), Case("tiny", 1, 4, 1.0, 1)]


def main(arguments: list[str] | None = None) -> dict | None:
    options = parser(__doc__)
    options.add_argument(
        "--memory-of", nargs=2, metavar=("CASE", "ENGINE"), help="measure one case; used by child processes"
    )
    options.add_argument("--device", type=usable_device, default=CPU, help="where models draw")
    options = options.parse_args(arguments)
    cases = choose(options, FULL, QUICK, TINY)
    if options.memory_of:
        number, engine = options.memory_of
        print(*memory_of(cases[int(number)], ENGINES[int(engine)]))
        return None
    report = Report("drawing", __doc__, options, [PACKAGE])
    engines = dict(enumerate(ENGINES))
    try:
        require_int8(options.device)
    except UserError as error:
        engines.pop(ENGINES.index(INT8))
        report.remark(f"int8 is left out: {error}")
    table = report.table("Drawing", ["case", "by", "s", "pictures/s", "it / here"])
    for case in cases:
        rows = Rows(case.codes, most=40 if options.tiny else None)
        tasks = {engine: drawer(case, rows, engine, options.device) for engine in engines.values()}
        if case.dalle:
            tasks |= dalle_drawers(case, rows, report, options.device)
        timings = in_turns(tasks, case.rounds)
        for name, seconds in timings.items():
            rates = Spread.of(case.pictures / value for value in seconds)
            table.row(case.title, name, Spread.of(seconds), rates, ratio(seconds, timings[OURS]))
    if options.device.type != "cpu":
        return report.save()
    table = report.table(
        "Memory of drawing",
        ["case", "by", "weights, MB", "cache, MB", "peak beyond the weights, MB", "the same / (weights + cache)"],
    )
    for number, case in enumerate(cases[:1] if options.quick else cases[:2]):
        for index, engine in engines.items():
            if engine == FP32:  # keeps the same things as in bf16, in twice the bytes
                continue
            if options.tiny:
                measured = memory_of(case, engine)
            else:
                size = ["--quick"] if options.quick else []
                measured = in_child(__file__, *size, "--memory-of", number, index)
            weights, cache, beyond = measured
            table.row(case.title, engine, weights, cache, beyond, beyond / (weights + cache))
    report.remark(
        "int8: weights and inputs of the products are rounded; quantized.py says what that costs. Memory: weights as "
        "the model was loaded (bf16 here), cache: keys and values of all rows, with guidance also of the unconditional "
        "ones, at their full length, in bf16, or fp32 here where nothing is compiled. DALLE's own cache serves guided "
        "drawing only, and its time includes a VAE of a few weights."
    )
    return report.save()


def drawer(case: Case, rows: Rows, engine: str, device: torch.device = CPU) -> Callable[[], object]:
    torch.manual_seed(0)
    model = build_language_model(MODELS[case.model], rows.vocabulary, length_of(case, rows)).eval()
    model.to(device)  # type: ignore[arg-type]
    vocabulary = rows.vocabulary
    captions: list[str | None] = [rows.captions[7 * number % len(rows.captions)] for number in range(case.pictures)]
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, captions, rows.longest))
    if engine != FP32:
        model.to(torch.bfloat16)  # type: ignore[arg-type]
    if engine in ENGINE:
        settings = SamplingConfig(guidance_scale=case.guidance)
        options = ENGINE[engine] | {"batch_size": case.pictures}
        if case.model == "tiny":  # nothing that small is worth compiling
            options.pop("compile", None)
        return functools.partial(
            draw_codes, model, vocabulary, prompts, case.codes, settings, options=DecodingOptions(**options)
        )
    input_ids, mask, _ = left_pad(prompts, vocabulary.pad)
    given = {"input_ids": input_ids.to(device), "attention_mask": mask.long().to(device)}
    if case.guidance != 1:
        given["negative_prompt_ids"] = torch.tensor([[vocabulary.bos, vocabulary.boi]] * case.pictures, device=device)
    config = GenerationConfig(  # as lm/pipeline.py saves it
        min_new_tokens=case.codes, max_new_tokens=case.codes, do_sample=True, top_k=0,
        suppress_tokens=list(range(vocabulary.image.offset)), guidance_scale=case.guidance,
        bos_token_id=vocabulary.bos, pad_token_id=vocabulary.pad,
    )  # fmt: skip
    return functools.partial(model.generate, **given, generation_config=config)


def length_of(case: Case, rows: Rows) -> int:
    return rows.longest + case.codes + 4


def dalle_drawers(case: Case, rows: Rows, report: Report, device: torch.device) -> dict[str, Callable[[], object]]:
    package = load()
    if isinstance(package, str):
        report.remark(f"dalle-pytorch's DALLE is left out: {package}.")
        return {}
    tasks = {}
    for name, dtype in (("DALLE, bf16", torch.bfloat16), ("DALLE, fp32", torch.float32)):
        side = round(case.codes**0.5)
        model = build_dalle(package, TEXT_SIZE + 1, rows.longest, side, CODEBOOK_SIZE, *case.dalle)
        model.to(device, dtype)
        texts = pad_texts(rows.tokens[: case.pictures], rows.longest).to(device)
        options = {"filter_thres": 0.0, "cond_scale": case.guidance, "use_cache": True}
        tasks[name] = functools.partial(model.generate_images, texts, **options)
    return tasks


def memory_of(case: Case, engine: str) -> tuple[float, float, float]:
    """MB of the weights, of the KV cache, and of the peak above the weights."""
    rows = Rows(case.codes, most=100)
    drawer(case, rows, engine)()
    gc.collect()
    draw = drawer(case, rows, engine)
    model: PreTrainedModel = draw.args[0] if engine in ENGINE else draw.func.__self__  # type: ignore[attr-defined]
    weight = next(model.parameters())
    before = memory_megabytes()
    draw()
    memory_megabytes(reset_peak=True)
    draw()
    config = model.config
    positions = case.pictures * (2 if case.guidance != 1 else 1) * length_of(case, rows)
    element_size = 4 if engine == OURS else weight.element_size()  # see LlamaDecoder
    cache = 2 * config.num_hidden_layers * positions * config.hidden_size * element_size
    weights = sum(weight.nbytes for weight in model.parameters())
    return weights / 2**20, cache / 2**20, max(0.0, peak_megabytes() - before)


if __name__ == "__main__":
    main()

"""Several codes of a picture in one forward, with the distribution of drawing them one by one.

Speculative Jacobi decoding (Teng et al. 2024, arXiv 2410.01699). The next codes are guessed, each from a distribution
q, and read together. The first guess is accepted with probability min(1, p / q), where p is the model's distribution
given all codes that are fixed; else the code is drawn from the excess of p over q. Guesses are judged in turn until one
is rejected; those after it are guessed again, from the model's new distributions. A forward of a few codes costs little
more than a forward of one where reading the weights dominates: one picture, a large model.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.sequences import left_pad
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.llama_decoder import LlamaDecoder, is_llama_like
from vqlm.lm.decoding.sampling import Generators, generators_of, guided_logits, require_finite
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError


def draw_rows_speculatively(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: list[list[int]],
    num_codes: int,
    settings: SamplingConfig,
    window: int,
    generator: Generators = None,
    negative_prompts: list[list[int]] | None = None,
) -> Int[Tensor, "b n"]:
    """Codes (B, num_codes) that continue each prompt, one row after another; see `draw_speculatively`."""
    random, negative = generators_of(generator, len(prompts)), negative_prompts or [None] * len(prompts)
    drawn = [
        draw_speculatively(model, vocabulary, prompt, num_codes, settings, window, each, away_from)[0]
        for prompt, each, away_from in zip(prompts, random, negative, strict=True)
    ]
    return torch.stack(drawn) if drawn else torch.empty(0, num_codes, dtype=torch.int64)


@torch.no_grad()
def draw_speculatively(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompt: list[int],
    num_codes: int,
    settings: SamplingConfig,
    window: int,
    generator: torch.Generator | None = None,
    negative_prompt: list[int] | None = None,
) -> tuple[Int[Tensor, " n"], int]:
    """The codes of one picture, distributed as those of `vqlm.lm.decoding.draw.draw_codes`, and the number of forwards.

    `window` codes are read at a time, at least 2. Raises UserError for a model that `LlamaDecoder` does not know.
    """
    if not is_llama_like(model):
        raise UserError(f"`speculative` needs llama or its like, found {type(model).__name__}; leave it out.")
    if window < 2:
        raise UserError(f"`speculative` must be at least 2, the codes read at a time; found {window}.")
    device, image = model.device, vocabulary.image
    rows = [prompt, negative_prompt or [vocabulary.bos, vocabulary.boi]] if settings.is_guided else [prompt]
    input_ids, mask, _ = (tensor.to(device) for tensor in left_pad(rows, vocabulary.pad))
    decoder = LlamaDecoder(model, slice(image.offset, image.stop))
    first = _probabilities(decoder.read(input_ids, mask, num_codes + window).unsqueeze(1), settings, 0, num_codes)
    codes = _draw(first, generator)  # (1,); the last code is never in the cache yet
    guessed_from, forwards = first[:0], 1
    guesses = codes[:0]
    while len(codes) < num_codes:
        # Beyond the codes that have a distribution, guess that the last code repeats.
        missing = window - 1 - len(guesses)
        repeated = codes[-1:].expand(missing)
        guesses = torch.cat([guesses, repeated])
        guessed_from = torch.cat([guessed_from, F.one_hot(repeated, image.size).to(first)])
        ids = torch.cat([codes[-1:], guesses]) + image.offset
        logits = decoder.guess(ids.expand(len(rows), -1))
        forwards += 1
        probabilities = _probabilities(logits, settings, len(codes), num_codes)  # (window, K)
        kept = count_kept(guesses, guessed_from, probabilities, generator)
        decoder.keep(1 + kept)
        target = probabilities[kept]
        if kept < len(guesses):
            target = (target - guessed_from[kept]).clamp(min=0)
        codes = torch.cat([codes, guesses[:kept], _draw(target.unsqueeze(0), generator)])
        guessed_from = probabilities[kept + 1 :]
        guesses = _draw(guessed_from, generator)
    return codes[:num_codes], forwards


def count_kept(
    guesses: Int[Tensor, " m"],
    guessed_from: Float[Tensor, "m k"],
    probabilities: Float[Tensor, "n k"],
    generator: torch.Generator | None,
) -> int:
    """How many of the guesses are accepted, from the first on (Leviathan et al. 2023, arXiv 2211.17192)."""
    at = guesses.unsqueeze(1)
    likely = probabilities[: len(guesses)].gather(1, at).squeeze(1)
    uniform = torch.rand(len(guesses), generator=generator, device=_device(generator, guesses)).to(guesses.device)
    is_accepted = uniform * guessed_from.gather(1, at).squeeze(1) < likely
    return int(is_accepted.cumprod(0).sum())


def _probabilities(
    logits: Float[Tensor, "r m k"], settings: SamplingConfig, step: int, steps: int
) -> Float[Tensor, "m k"]:
    """The distributions of codes `step`, `step + 1`, ...: with guidance, candidates and temperature applied."""
    require_finite(logits, f"code {step}")
    unconditional = logits[1] if settings.is_guided else None
    if settings.guidance_schedule == "constant":
        guided = guided_logits(logits[0], unconditional, settings)
    else:
        guided = torch.cat(
            [
                guided_logits(
                    row,
                    None if unconditional is None else unconditional[n : n + 1],
                    settings.at(min(step + n, steps - 1), steps),
                )
                for n, row in enumerate(logits[0].split(1))
            ]
        )
    if settings.temperature == 0:
        return F.one_hot(guided.argmax(-1), guided.shape[-1]).float()
    return (guided / settings.temperature).softmax(-1)


def _draw(probabilities: Float[Tensor, "m k"], generator: torch.Generator | None) -> Int[Tensor, " m"]:
    if not len(probabilities):
        return torch.empty(0, dtype=torch.int64, device=probabilities.device)
    device = _device(generator, probabilities)
    return torch.multinomial(probabilities.to(device), 1, generator=generator).squeeze(1).to(probabilities.device)


def _device(generator: torch.Generator | None, tensor: Tensor) -> torch.device:
    return tensor.device if generator is None else generator.device

"""The settings of stage two: the model, its training, how codes are drawn. Needs no torch, so that the command line
can name them quickly."""

import importlib.util
import math
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal

from vqlm.training.config import OptimizerName, TrainingConfig
from vqlm.training.errors import UserError, require_range
from vqlm.training.extras import install_hint

NewRows = Literal["mean", "codebook"]
SETTINGS_FILE = "text_to_image.json"
MOST_GUIDANCE = 1000  # beyond any use; keeps fp32 logits precise


@dataclass
class LanguageModelConfig:
    """Size and kind of the language model.

    Args:
        architecture: a `model_type` that `AutoModelForCausalLM` knows, such as llama, qwen3 or gpt2.
        hidden_size: width of the residual stream.
        intermediate_size: width inside a feed-forward block.
        num_hidden_layers: decoder layers.
        num_attention_heads: attention heads per layer, each of hidden_size / num_attention_heads channels.
        tie_word_embeddings: whether one matrix serves as input and output embedding.
        extra: further settings of the architecture's configuration class.
    """

    architecture: str = "llama"
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    tie_word_embeddings: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        require_range(self, "[1, inf)", *sizes, prefix="model.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"`model.hidden_size` {self.hidden_size} must be divisible by `model.num_attention_heads` "
                f"{self.num_attention_heads}."
            )
        if clash := sorted({*vars(self), "vocab_size", "max_position_embeddings"} & set(self.extra)):
            raise UserError(
                f"`model.extra` must not hold {clash[0]!r}, which follows from the other settings; found {self.extra}."
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How a code is drawn. The defaults draw from the model's distribution as it is.

    Args:
        guidance_scale: weight of the prompt, in [0, 1000]: 1 is the plain conditional distribution, above 1 sharpens
            what the prompt changes (classifier-free guidance, Ho and Salimans 2022).
        guidance_schedule: "constant", or "cosine" from no guidance at the first code to all of it at the last
            (Wang et al. 2024, arXiv 2404.13040, where the weight grows along the way).
        temperature: logits are divided by it; 0 always takes the likeliest code.
        top_k: keep this many of the likeliest candidates; 0 keeps all.
        top_p: keep the smallest set of candidates that holds this probability; 1 keeps all.
        min_p: keep candidates of at least this share of the likeliest one's probability; 0 keeps all.
    """

    guidance_scale: float = 1.0
    guidance_schedule: Literal["constant", "cosine"] = "constant"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        for name in ("guidance_scale", "temperature", "top_p", "min_p"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, Real):
                raise UserError(f"`{name}` must be a number, found {value!r:.40} of type {type(value).__name__}.")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, Integral):
            raise UserError(f"`top_k` must be a whole number, found {self.top_k!r:.40}; 0 keeps all.")
        if not 0 <= self.guidance_scale <= MOST_GUIDANCE:
            raise UserError(
                f"`guidance_scale` must lie in [0, {MOST_GUIDANCE}], found {self.guidance_scale}; 1 means no guidance."
            )
        if self.guidance_schedule not in ("constant", "cosine"):
            raise UserError(f"`guidance_schedule` must be constant or cosine, found {self.guidance_schedule!r}.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f"`temperature` must not be negative or infinite, found {self.temperature}; 0 takes the likeliest code."
            )
        if self.top_k < 0:
            raise UserError(f"`top_k` must not be negative, found {self.top_k}; 0 keeps all.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"`top_p` must lie in (0, 1], found {self.top_p}; 1 keeps all.")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"`min_p` must lie in [0, 1], found {self.min_p}; 0 keeps all.")

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale != 1.0

    @property
    def is_cut(self) -> bool:
        """Whether some codes may be no candidates."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def describe(self) -> str:
        """The settings in words, such as "guidance 2, temperature 0.25, min-p 0.05"; the others where they are set."""
        values = {"guidance": self.guidance_scale, "temperature": self.temperature, "min-p": self.min_p}
        shown = {name: f"{value:g}" for name, value in values.items()}
        for name in ("guidance_schedule", "top_k", "top_p"):
            if (value := getattr(self, name)) != getattr(SamplingConfig, name):
                shown[name.replace("_", "-")] = str(value)
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    def override(self, **given: Any) -> "SamplingConfig":
        """These settings with those of `given` that are not None. Raises UserError for an unknown name."""
        if unknown := sorted(given.keys() - vars(self).keys()):
            raise UserError(f"There is no sampling setting {unknown[0]!r}; there are {', '.join(vars(self))}.")
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def at(self, step: int, steps: int) -> "SamplingConfig":
        """The settings of one of `steps` codes, by the schedule."""
        if self.guidance_schedule == "constant":
            return self
        share = (1 - math.cos(math.pi * step / max(1, steps - 1))) / 2
        return replace(self, guidance_scale=1 + (self.guidance_scale - 1) * share)


@dataclass(frozen=True)
class DecodingOptions:
    """How this machine computes codes. The codes that are drawn are the same, but for rounding.

    Args:
        batch_size: pictures that are drawn at a time; more are drawn in several batches.
        compile: whether torch.compile builds the step, in every process: for hundreds of pictures on a CPU.
        quantize: "int8" multiplies with int8 weights, for large models on a CPU, with `compile`; None with the
            weights as they are.
    """

    batch_size: int = 64
    compile: bool = False
    quantize: str | None = None

    def __post_init__(self):
        require_count("batch_size", self.batch_size)
        if self.quantize not in (None, "int8"):
            raise UserError(f"`quantize` must be 'int8' or left out, found {self.quantize!r}.")

    def override(
        self, batch_size: int | None = None, compile: bool | None = None, quantize: str | None = None
    ) -> "DecodingOptions":
        """These options with what is given instead; `quantize="none"` means the weights as they are."""
        return DecodingOptions(
            self.batch_size if batch_size is None else batch_size,
            self.compile if compile is None else compile,
            self.quantize if quantize is None else None if quantize == "none" else quantize,
        )


@dataclass(kw_only=True)
class LMTrainingConfig(TrainingConfig):
    """The settings that only stage two has.

    Args:
        optimizer: "muon" for the hidden matrices, with AdamW for the rest, or "adamw" for all.
        embedding_dropout: rate of the dropout on the input embeddings.
        image_weight: weight of codes in the loss.
        text_weight: weight in the loss of captions that come before their picture, and of brackets.
        caption_weight: weight of captions that come after their picture, see sequences.captioning. Short captions of
            a share of the rows need a high one to be more than a few percent of the loss.
        max_caption_tokens: longest caption, in tokens.
        long_captions: whether longer ones are cut, or the training refused.
        weights: how often rows are shown per epoch by pattern of their keys, such as {"photos/*": 2, "10_cats/*": 0.5};
            1 for all others. The first pattern that matches counts.
        label_smoothing: share of a code's target that is spread over all codes, against overconfidence.
        neighbor_smoothing: share of a code's target that is spread over the codes nearest to it in the codebook.
        init_from: where the training starts: a finished model's folder, for whose tokenizers the data were prepared; or
            folder or hub name of a causal language model of text, with whose tokenizer they were.
        lora: train low-rank adapters of the finished model in init_from instead of its weights, with PEFT; they are
            merged at the end.
        lora_rank: rank of the adapters; a higher one can change the model more.
        new_rows: with init_from, whether the embeddings of the image codes start at the "mean" of the old ones, or
            apart from it as the "codebook" has them.
        gradient_checkpointing: keep the input of each block only and compute the rest again in the backward pass: less
            memory, slower, the same loss.
        compile: whether torch.compile builds parts of a step; auto: where it works and the run is long enough.
        sample_prompts: file of one prompt per line, drawn while it trains; by default eight held-out captions.
    """

    default_steps: ClassVar[int] = 1400

    optimizer: OptimizerName = "muon"
    batch_size: int = 48
    learning_rate: float = 6e-3
    weight_decay: float = 0.5
    embedding_dropout: float = 0.0
    image_weight: float = 1.0
    text_weight: float = 0.1
    caption_weight: float = 6.0
    weights: dict[str, float] = field(default_factory=dict)
    label_smoothing: float = 0.05
    neighbor_smoothing: float = 0.15
    max_caption_tokens: int = 64
    long_captions: Literal["cut", "refuse"] = "cut"
    init_from: str | None = None
    lora: bool = False
    lora_rank: int = 16
    new_rows: NewRows = "codebook"
    gradient_checkpointing: bool = False
    compile: Literal["auto", "yes", "no"] = "auto"
    sample_prompts: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.sample_prompts is not None and not self.sample_every:
            raise UserError("`sample_prompts` has no effect with `sample_every` 0; leave one of them out.")
        require_range(self, "[0, 1)", "embedding_dropout", "label_smoothing", "neighbor_smoothing")
        require_range(self, "[0, inf)", "image_weight", "text_weight", "caption_weight")
        require_range(self, "[1, inf)", "max_caption_tokens", "lora_rank")
        if self.label_smoothing + self.neighbor_smoothing >= 1:
            raise UserError(
                f"`label_smoothing` {self.label_smoothing} and `neighbor_smoothing` {self.neighbor_smoothing} must sum "
                "to less than 1: the rest stays with the code itself."
            )
        if self.image_weight + self.text_weight == 0:
            raise UserError("`image_weight` and `text_weight` must not both be 0: then nothing is learned.")
        self._check_start()

    def _check_start(self) -> None:
        """Raises UserError for settings of a start that have no effect or cannot work."""
        starts_finished = self.init_from is not None and is_finished(self.init_from)
        if starts_finished and self.new_rows != LMTrainingConfig.new_rows:
            raise UserError(
                f"`new_rows` has no effect with `init_from` {self.init_from!r}, a finished model: it needs no new "
                "rows. Leave it out."
            )
        if not self.lora:
            if self.lora_rank != LMTrainingConfig.lora_rank:
                raise UserError(f"`lora_rank` {self.lora_rank} has no effect without `lora`; set that too.")
            return
        if self.init_from is None:
            raise UserError("`lora` adapts a finished model; name its folder in `init_from`.")
        require_peft()
        if not starts_finished:
            raise UserError(
                f"`lora` needs a finished model, which `init_from` {self.init_from!r} is not: adapters leave "
                "embeddings as they are, and those of the image codes have yet to be learned. Train without `lora` "
                "first."
            )


def require_count(name: str, value: Any) -> None:
    """Raises UserError if the argument `name` is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"`{name}` must be a whole number, found {value!r} of type {type(value).__name__}.")
    if value < 1:
        raise UserError(f"`{name}` must be at least 1, found {value}.")


def is_finished(name: str) -> bool:
    """Whether `name` is a folder that `train_lm` finished, rather than a language model of text."""
    return (Path(name) / SETTINGS_FILE).is_file()


def require_peft() -> None:
    """Raises UserError if the package is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"`lora` needs the package peft; install it: {install_hint('lora')}.")

"""Training stage two on a prepared set. Knows captions, codes and how near codes lie to one another."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch.utils.data import DataLoader

from data_prep.batching import LONGEST_PACK, CaptionLengths, PackedBatches, PackedRows, choose_shape
from data_prep.prepared_set import PreparedSet
from data_prep.sequences import ROW_OVERHEAD, RowCollator, SequenceConfig
from lm.codebook import initialize_code_embeddings, similar_codes
from lm.evaluation import evaluate_nll
from lm.finished import inherit, is_finished, lengthen_context, load_start
from lm.lora import add_adapters, require_peft, save_and_merge
from lm.model import (
    LanguageModelConfig,
    add_embedding_dropout,
    build_language_model,
    choose_attention,
    keeps_packed_rows_apart,
)
from lm.objective import WeightedCrossEntropy
from lm.optimizers import OptimizerName, build_optimizers
from lm.pipeline import TextToImagePipeline
from lm.pretrained import NewRows, load_pretrained
from lm.sampling import SamplingConfig
from training.compiling import compile_failure
from training.config import TrainingConfig
from training.errors import UserError
from training.files import write_json
from training.run import Run

# A run shorter than this does not win back the time that compiling takes.
MIN_STEPS_TO_COMPILE = 300
# Of a held-out split; a large one would take longer than the training between two evaluations.
EVALUATED_ROWS = 2048


@dataclass(kw_only=True)
class LMTrainingConfig(TrainingConfig):
    """Stage two's own settings.

    Args:
        optimizer: "muon" for the hidden matrices, with AdamW for the rest, or "adamw" for all.
        embedding_dropout: rate of the dropout on the input embeddings.
        image_weight: weight of codes in the loss.
        text_weight: weight in the loss of captions that stand before their picture, and of brackets.
        caption_weight: weight of captions that stand behind their picture, see sequences.captioning. Short captions of
            a share of the rows need a high one to be more than a few percent of the loss.
        max_caption_tokens: longest caption, in tokens.
        long_captions: whether longer ones are cut, or the training refused.
        label_smoothing: share of a code's target that is spread over all codes, against overconfidence.
        neighbor_smoothing: share of a code's target that is spread over the codes nearest to it in the codebook.
        init_from: where the training starts: a finished model's folder, for whose tokenizers the data were prepared
            (--for-model); or folder or hub name of a causal language model of text, with whose tokenizer they were
            (--text.pretrained).
        lora: train low-rank adapters of the finished model in init_from in place of its weights, with PEFT; they are
            merged at the end.
        lora_rank: rank of the adapters; a higher one can change the model more.
        new_rows: with init_from, whether the embeddings of the image codes start at the "mean" of the old ones, or
            apart from it as the "codebook" has them.
        compile: whether torch.compile builds parts of a step; auto: where it works and the run is long enough.
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
    label_smoothing: float = 0.05
    neighbor_smoothing: float = 0.15
    max_caption_tokens: int = 64
    long_captions: Literal["cut", "refuse"] = "cut"
    init_from: str | None = None
    lora: bool = False
    lora_rank: int = 16
    new_rows: NewRows = "codebook"
    compile: Literal["auto", "yes", "no"] = "auto"

    def __post_init__(self):
        super().__post_init__()
        for name in ("embedding_dropout", "label_smoothing", "neighbor_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), found {getattr(self, name)}.")
        if self.label_smoothing + self.neighbor_smoothing >= 1:
            raise UserError(
                f"label_smoothing {self.label_smoothing} and neighbor_smoothing {self.neighbor_smoothing} must sum to "
                "less than 1: the rest stays with the code itself."
            )
        if min(self.image_weight, self.text_weight) < 0 or self.image_weight + self.text_weight == 0:
            raise UserError(
                f"image_weight and text_weight must not be negative, nor both 0; found {self.image_weight} and "
                f"{self.text_weight}."
            )
        if self.caption_weight < 0:
            raise UserError(f"caption_weight must not be negative, found {self.caption_weight}.")
        if self.max_caption_tokens < 1:
            raise UserError(f"max_caption_tokens must be at least 1, found {self.max_caption_tokens}.")
        self._check_start()

    def _check_start(self) -> None:
        """Raises UserError for settings of a start that have no effect or cannot work."""
        starts_finished = self.init_from is not None and is_finished(self.init_from)
        if starts_finished and self.new_rows != LMTrainingConfig.new_rows:
            raise UserError(f"new_rows has no effect with init_from {self.init_from!r}: a finished model gets none.")
        if self.lora_rank < 1:
            raise UserError(f"lora_rank must be at least 1, found {self.lora_rank}.")
        if not self.lora:
            if self.lora_rank != LMTrainingConfig.lora_rank:
                raise UserError(f"lora_rank {self.lora_rank} has no effect without lora; add --lora.")
            return
        if self.init_from is None:
            raise UserError("lora adapts a finished model; name its folder with --init-from.")
        require_peft()
        if not starts_finished:
            raise UserError(
                f"lora needs a finished model, which init_from {self.init_from!r} is not: adapters leave embeddings as "
                "they are, and those of the image codes have yet to be learned. Train without lora first."
            )


def train_lm(
    prepared: PreparedSet,
    output: Path,
    model_config: LanguageModelConfig,
    config: LMTrainingConfig,
    sequences: SequenceConfig,
    sampling: SamplingConfig,
    resume: bool = False,
) -> TextToImagePipeline:
    """Train a causal LM on `prepared` and save the finished model folder in `output`.

    `sampling` becomes the pipeline's saved default. Raises UserError if `output` holds another run.
    """
    if config.init_from is not None and model_config != LanguageModelConfig():
        raise UserError(f"--model settings have no effect with init_from {config.init_from!r}; leave one of them out.")
    base = load_start(config.init_from, prepared) if config.init_from and is_finished(config.init_from) else None
    settings = {"model": asdict(model_config), "sequences": asdict(sequences)} | asdict(config)
    settings |= {key: prepared.manifest[key] for key in ("vocabulary", "made_from")}
    run = Run(output, "train_lm", config, settings, resume)
    if run.is_finished:
        run.progress.say(f"{output} is finished already")
        return TextToImagePipeline.from_pretrained(output)

    vocabulary, image_tokenizer = prepared.vocabulary, prepared.load_image_tokenizer()
    caption_tokens = _caption_tokens(prepared, config, run)
    tokens_per_image = prepared.tokens_per_image
    length = ROW_OVERHEAD + caption_tokens + tokens_per_image + 1
    if sequences.interleaved:
        length *= LONGEST_PACK  # positions run on through a document
    codebook = image_tokenizer.quantizer.code_vectors()  # (K, D)
    codebook = None if codebook is None else codebook.detach()
    if codebook is None:
        run.progress.say("a code of this image tokenizer has no vector of its own: no neighbor_smoothing")
    adapters = None
    if config.init_from is not None and base is not None:
        lengthen_context(base, config.init_from, length)
        model = base.model
        adapters = add_adapters(model, config.lora_rank) if config.lora else None
    elif config.init_from is not None:
        model = load_pretrained(config.init_from, vocabulary, length, config.new_rows, codebook)
    else:
        model = build_language_model(model_config, vocabulary, length)
        if codebook is not None:
            initialize_code_embeddings(model, vocabulary, codebook)
    is_packed = keeps_packed_rows_apart(model)
    if not is_packed:
        run.progress.say(f"{model.config.model_type} mixes packed rows: one row a pack, with padding")
    add_embedding_dropout(model, config.embedding_dropout)
    objective = WeightedCrossEntropy(
        model, vocabulary, config.text_weight, config.image_weight, config.caption_weight,
        config.label_smoothing,
        *((0.0, None) if codebook is None else (config.neighbor_smoothing, similar_codes(codebook))),
    ).train()  # fmt: skip
    optimizers = build_optimizers(config.optimizer, model, config.learning_rate, config.weight_decay, config.beta2)
    lengths = CaptionLengths(prepared.train, caption_tokens)
    shape = choose_shape(lengths, config.batch_size, ROW_OVERHEAD + tokens_per_image, tokens_per_image, is_packed)
    choose_attention(model, run.accelerator.device, shape.pack_length)
    if sequences.interleaved and shape.max_rows == 1:
        run.progress.say("no two rows share a pack here: sequences.interleaved has no effect")
    batches = PackedBatches(lengths, shape, config.seed, sequences.caption_dropout, prepared.num_views)
    loader = DataLoader(
        PackedRows(prepared.train, tokens_per_image), batch_sampler=batches, collate_fn=list,
        generator=torch.Generator(), num_workers=config.num_workers,  # not the global one, which a start would move
    )  # fmt: skip
    # The sampler has drawn which rows go without their caption: lengths decide what shares a pack.
    collate = RowCollator(vocabulary, caption_tokens, sequences)
    if _shall_compile(config, run):
        objective.compile_parts()
    objective, loader, *optimizers = run.prepare(objective, loader, *optimizers)

    if base is not None and not run.is_resumed:
        before = held_out_nll(run.accelerator.unwrap_model(objective).model, prepared, caption_tokens)
        run.progress.say("before training: " + "  ".join(f"{name} {value:.4g}" for name, value in before.items()))

    for packs in run.batches(loader):
        # Built here and not in the loader, which reads ahead: a continued run then draws the same dropout and noise.
        batch = collate(packs, shape).to(run.accelerator.device)
        made = objective(**vars(batch))
        if not run.step(made.loss, objective, *optimizers):
            continue
        run.log(image_nll=made.image_nll, text_nll=made.text_nll)
        if run.is_next_due(config.eval_every):
            run.report(**held_out_nll(run.accelerator.unwrap_model(objective).model, prepared, caption_tokens))

    model = run.accelerator.unwrap_model(objective).model.eval()
    nll = held_out_nll(model, prepared, caption_tokens)
    if run.accelerator.is_main_process:
        if adapters is not None:
            model = save_and_merge(adapters, output / "adapter")
        attribution = prepared.manifest["attribution"]
        trained_on = {"data": prepared.manifest["made_from"]["data"], "pictures": prepared.manifest["splits"]}
        pipeline = TextToImagePipeline(
            model, vocabulary, image_tokenizer, sampling, caption_tokens, attribution, sequences.captioning > 0,
            trained_on,
        )  # fmt: skip
        if base is not None:
            inherit(pipeline, base)
        pipeline.save_pretrained(output)
        write_json(output / "run" / "stages.json", prepared.manifest["seconds"] | {"train_lm": run.state.seconds})
    run.finish(**nll)
    return TextToImagePipeline.from_pretrained(output)


@torch.compiler.set_stance("force_eager")  # what is compiled is for the shapes of a training step
def held_out_nll(model, prepared: PreparedSet, caption_tokens: int) -> dict[str, float]:
    """Image NLL in nats a code of every held-out split, of at most `EVALUATED_ROWS` rows evenly over it."""
    figures = {}
    for split, rows in prepared.held_out.items():
        count = min(len(rows), EVALUATED_ROWS)
        chosen = rows.select([number * len(rows) // count for number in range(count)])
        nll = evaluate_nll(model, prepared.vocabulary, chosen, caption_tokens, prepared.tokens_per_image)
        figures[f"{split}_image_nll"] = nll
    return figures


def _caption_tokens(prepared: PreparedSet, config: LMTrainingConfig, run: Run) -> int:
    lengths = {int(length): count for length, count in prepared.manifest["caption_lengths"].items()}
    limit = config.max_caption_tokens
    if longer := sum(count for length, count in lengths.items() if length > limit):
        found = f"{longer} of {sum(lengths.values())} captions are longer than max_caption_tokens {limit}"
        if config.long_captions == "refuse":
            raise UserError(
                f"{found}, the longest has {max(lengths)} tokens. Raise max_caption_tokens, shorten them, or have them "
                "cut with --long-captions cut."
            )
        run.progress.say(f"{found}; they are cut")
    return min(limit, max(lengths))


def _shall_compile(config: LMTrainingConfig, run: Run) -> bool:
    if config.compile == "auto":
        if config.max_steps is not None and config.max_steps < MIN_STEPS_TO_COMPILE:
            return False
        if failure := compile_failure(run.accelerator.device):
            run.progress.say(f"torch.compile does not work here ({failure}); trains without it, slower")
        return not failure
    return config.compile == "yes"

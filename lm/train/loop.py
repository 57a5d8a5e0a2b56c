"""Training stage two on a prepared set of captions and codes."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from vqlm.data_prep.captions.known_words import known_words
from vqlm.data_prep.prepared_set import PreparedSet, spread
from vqlm.data_prep.settings import SequenceConfig
from vqlm.lm.code_embeddings import similar_codes
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.evaluate.training_record import LOG_FILE
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.model import add_embedding_dropout, checkpoint_gradients
from vqlm.lm.model_folder.card import data_name
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig
from vqlm.lm.train.from_finished_model import inherit
from vqlm.lm.train.lora import save_and_merge
from vqlm.lm.train.optimizers import build_optimizers
from vqlm.lm.train.packs import Packs, limit_captions, longest_row
from vqlm.lm.train.prompt_length import allow_prompts
from vqlm.lm.train.samples import drawn_samples, sample_prompts
from vqlm.lm.train.sharded import blocks_of, refuse_unsharded, say_no_samples, stock_copy
from vqlm.lm.train.start import choose_start, load_base
from vqlm.training.machine.batch_size import with_fitting_batch
from vqlm.training.machine.compiling import compile_failure
from vqlm.training.machine.processes import with_launcher
from vqlm.training.run import Run
from vqlm.training.watching.log import format_figures
from vqlm.vq import VQVAE

# In a run of fewer steps compiling takes more time than it saves.
MIN_STEPS_TO_COMPILE = 300
# The most rows of a held-out split that are evaluated; a large split could take longer than the training in between.
EVALUATED_ROWS = 2048
# The most training rows, spread evenly, whose words the finished model records.
WORD_ROWS = 200_000


def train_lm(
    prepared: PreparedSet,
    output: Path,
    model_config: LanguageModelConfig,
    config: LMTrainingConfig,
    sequences: SequenceConfig,
    sampling: SamplingConfig,
    resume: bool = False,
) -> TextToImagePipeline:
    """Train a causal language model on a prepared set and save the finished model folder in `output`.

    Args:
        prepared: captions and codes, of `prepare` or `PreparedSet.load`.
        output: folder of the finished model; the run's own files go to `run/` in it.
        model_config: architecture and sizes of a new model; the default one with `config.init_from`.
        config: budget, optimizer, loss weights, and where the training starts.
        sequences: how rows are built: dropout of captions, noise, direction.
        sampling: default of the saved pipeline.
        resume: continue the run in `output`, if there is one.

    Returns:
        The pipeline of the finished model, loaded from `output`.

    Raises:
        UserError: if `output` holds another run, or any files without `resume`; for a start that does not fit the
            prepared set; if ten steps in a row give a gradient that is not finite.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from vqlm.data_prep import SequenceConfig, load_collection, prepare
        >>> from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig
        >>> from vqlm.lm.train import train_lm
        >>> from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig
        >>> network = NetworkConfig(input_shape=[16, 16], stem_channels=8, hidden_channels=16)
        >>> image_tokenizer = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16))).eval()
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     (folder / "pictures").mkdir()
        ...     for colour in ("red", "green", "blue", "black", "white", "gray", "pink", "gold"):
        ...         Image.new("RGB", (16, 16), colour).save(folder / "pictures" / f"{colour}.png")
        ...         _ = (folder / "pictures" / f"{colour}.txt").write_text(colour)
        ...     collection = load_collection(str(folder / "pictures"), 16)
        ...     prepared = prepare(collection, image_tokenizer, folder / "data", "pictures", num_workers=0)
        ...     model_config = LanguageModelConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
        ...     config = LMTrainingConfig(max_steps=1, batch_size=4)
        ...     pipeline = train_lm(
        ...         prepared, folder / "model", model_config, config, SequenceConfig(), SamplingConfig()
        ...     )
        >>> pipeline.image_tokenizer.config.code_shape
        (2, 2)
    """
    if config.find_batch_size:
        return with_fitting_batch(
            config, output, resume,
            lambda fitting: train_lm(prepared, output, model_config, fitting, sequences, sampling, resume),
        )  # fmt: skip
    config = with_launcher(config, can_shard=True)
    refuse_unsharded(config)
    prompts = sample_prompts(config.sample_prompts)
    base = load_base(config, model_config, prepared)
    run = Run(
        output, "train_lm", config, _deciding(prepared, model_config, config, sequences), resume, len(prepared.train)
    )
    if run.is_finished:
        run.say_finished()
        return TextToImagePipeline.from_pretrained(output)

    vocabulary, image_tokenizer = prepared.vocabulary, prepared.load_image_tokenizer()
    caption_tokens, codebook = limit_captions(prepared, config, run), _codebook(image_tokenizer, run)
    length = longest_row(prepared, sequences, caption_tokens)
    start = choose_start(base, config, model_config, vocabulary, length, codebook)
    add_embedding_dropout(start.model, config.embedding_dropout)
    if config.gradient_checkpointing:
        checkpoint_gradients(start.model)
    objective = _objective(start.model, prepared, config, codebook)
    packs = Packs(prepared, start.model, config, sequences, caption_tokens, run)
    if is_compiled := _shall_compile(config, run):
        objective.compile_parts()
    run.shard(objective, blocks_of(start.model))
    optimizers = build_optimizers(
        config.optimizer, start.model, config.learning_rate, config.weight_decay, config.beta2
    )
    objective, loader, *optimizers = run.prepare(objective, packs.loader, *optimizers)
    if is_compiled:
        _compile_now(objective, packs, optimizers, run)
    model = objective if run.sharding else run.accelerator.unwrap_model(objective).model
    if base is not None and not run.is_resumed:
        run.progress.say("before training: " + format_figures(held_out_nll(model, prepared, caption_tokens)))
    if run.sharding is not None:
        say_no_samples(run)
    else:
        run.show_samples(drawn_samples(model, prepared, image_tokenizer, sampling, prompts))

    for rows in run.batches(loader):
        losses = objective(**vars(packs.collate(rows)))
        if not run.step(losses.loss, objective, *optimizers, weight=losses.weight / packs.shape.num_ids):
            continue
        run.log(loss=losses.loss, image_nll=losses.image_nll, text_nll=losses.text_nll)
        if run.is_next_due(config.eval_interval):
            with run.averaged_weights():
                run.report(**held_out_nll(model, prepared, caption_tokens))

    model.eval()
    run.checkpoint()  # before the folder is written: if that is cut short, a resumed run only saves again
    with run.averaged_weights():
        nll = run.final_report or held_out_nll(model, prepared, caption_tokens)
        if run.sharding:
            model = stock_copy(model, run.accelerator.is_main_process)
        if model is not None and run.accelerator.is_main_process:
            if start.adapters is not None:
                model = save_and_merge(start.adapters, output / "adapter")
            settings = ModelFolderSettings(
                sampling, allow_prompts(model, config.max_caption_tokens, caption_tokens, length),
                sequences.captioning > 0, prepared.manifest["attribution"], _trained_on(prepared, run),
                _known_words(prepared),
            )  # fmt: skip
            pipeline = TextToImagePipeline(model, vocabulary, image_tokenizer, settings)
            if base is not None:
                inherit(pipeline, base)
            pipeline.save_pretrained(output)
            shutil.copyfile(run.folder / "log.jsonl", output / LOG_FILE)
    run.finish(**nll)
    return TextToImagePipeline.from_pretrained(output)


# Set-up and end of a training


def _compile_now(objective: Any, packs: Packs, optimizers: list[Optimizer], run: Run) -> None:
    """Compile now, by a step that changes nothing, so that compiling takes nothing of the budget."""
    run.progress.say("compiling, about half a minute; it does not count as training time")
    start = time.monotonic()
    device = run.accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        run.accelerator.backward(objective(**vars(packs.collate(packs.first()))).loss)
    for optimizer in optimizers:
        optimizer.zero_grad()
    run.progress.say(f"compiled in {time.monotonic() - start:.0f} s")


def _deciding(
    prepared: PreparedSet, model_config: LanguageModelConfig, config: LMTrainingConfig, sequences: SequenceConfig
) -> dict[str, Any]:
    """All settings that decide the result: only with the same ones does `Run` resume a run."""
    settings = {"model": model_config, "sequences": sequences} | vars(config)
    return settings | {key: prepared.manifest[key] for key in ("vocabulary", "made_from")}


def _codebook(image_tokenizer: VQVAE, run: Run) -> Tensor | None:
    """The vectors of the codes, (K, D); None for a quantizer whose codes have none."""
    codebook = image_tokenizer.quantizer.code_vectors()
    if codebook is None:
        run.progress.say("the codes of this image tokenizer have no vectors: no `neighbor_smoothing`")
        return None
    return codebook.detach()


def _objective(
    model: PreTrainedModel, prepared: PreparedSet, config: LMTrainingConfig, codebook: Tensor | None
) -> WeightedCrossEntropy:
    smoothing = (0.0, None) if codebook is None else (config.neighbor_smoothing, similar_codes(codebook))
    return WeightedCrossEntropy(
        model, prepared.vocabulary, config.text_weight, config.image_weight, config.caption_weight,
        config.label_smoothing, *smoothing,
    ).train()  # fmt: skip


def _shall_compile(config: LMTrainingConfig, run: Run) -> bool:
    if config.compile == "auto":
        if config.max_steps is not None and config.max_steps < MIN_STEPS_TO_COMPILE:
            return False
        if failure := compile_failure(run.accelerator.device):
            run.progress.say(f"torch.compile does not work here ({failure}); the training runs without it, slower")
        return not failure
    return config.compile == "yes"


def _trained_on(prepared: PreparedSet, run: Run) -> dict[str, Any]:
    """What the finished model records of its data and of the time that each stage took."""
    return {
        "data": data_name(prepared.manifest["made_from"]["data"]),
        "pictures": prepared.manifest["splits"],
        "longest_caption_tokens": prepared.manifest["longest_caption_tokens"],
        "seconds": prepared.manifest["seconds"] | {"train_lm": run.state.seconds},
    }


def _known_words(prepared: PreparedSet) -> str:
    rows = prepared.train.select_columns(["captions"])
    chosen = rows.select(spread(len(rows), WORD_ROWS))
    return known_words((caption for row in chosen["captions"] for caption in row), prepared.vocabulary)


@torch.compiler.set_stance("force_eager")  # compiled parts are for the shapes of a training step
def held_out_nll(
    model: PreTrainedModel | WeightedCrossEntropy, prepared: PreparedSet, caption_tokens: int
) -> dict[str, float]:
    """Image NLL in nats per code of every held-out split, of at most `EVALUATED_ROWS` rows evenly over it."""
    figures = {}
    for split, rows in prepared.held_out.items():
        evaluated = rows.select(spread(len(rows), EVALUATED_ROWS))
        nll = evaluate_nll(model, prepared.vocabulary, evaluated, caption_tokens, prepared.tokens_per_image)
        figures[f"{split}_image_nll"] = nll
    return figures

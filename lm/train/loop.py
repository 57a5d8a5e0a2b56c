"""Training stage two on a prepared set. Knows captions, codes and how near codes lie to one another."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from vqlm.data_prep.batching import LONGEST_PACK, CaptionLengths, PackedBatches, PackedRows, choose_shape
from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.data_prep.sequences import ROW_OVERHEAD, RowCollator
from vqlm.data_prep.settings import SequenceConfig
from vqlm.lm.code_embeddings import initialize_code_embeddings, similar_codes
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.model import add_embedding_dropout, build_language_model, choose_attention, keeps_packed_rows_apart
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, SamplingConfig, is_finished
from vqlm.lm.train.from_finished_model import inherit, lengthen_context, load_start
from vqlm.lm.train.from_text_model import load_pretrained
from vqlm.lm.train.lora import add_adapters, save_and_merge
from vqlm.lm.train.optimizers import build_optimizers
from vqlm.training.compiling import compile_failure
from vqlm.training.errors import UserError
from vqlm.training.files import write_json
from vqlm.training.run import Run

# A run shorter than this does not win back the time that compiling takes.
MIN_STEPS_TO_COMPILE = 300
# Of a held-out split; a large one would take longer than the training between two evaluations.
EVALUATED_ROWS = 2048


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
        settings = ModelFolderSettings(sampling, caption_tokens, sequences.captioning > 0, attribution, trained_on)
        pipeline = TextToImagePipeline(model, vocabulary, image_tokenizer, settings)
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

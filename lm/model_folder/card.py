"""The model card of a finished folder: what the model was trained on, its figures, how to load it. Claims nothing that
the folder does not hold."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.vq import VQVAEConfig

# A card with this line is overwritten whenever the folder is saved; one without it is a person's.
WRITTEN_HERE = "<!-- Written by vqlm with the folder; take this line out to keep your own text. -->"
TASK = "text-to-image"
LICENSE = re.compile(r"\bCC[ -](BY(?:-(?:NC|SA|ND)){0,2})[ -](\d\.\d)\b")


def license_of(attribution: list[str]) -> str | None:
    """The hub's name of the Creative Commons licence in the lines; None if they name none, or several."""
    names = {f"cc-{kind}-{version}".lower() for line in attribution for kind, version in LICENSE.findall(line)}
    return names.pop() if len(names) == 1 else None


def data_name(data: str) -> str:
    """The name of the data, without the folders of the machine that held it."""
    return data if data.startswith("hf:") or "/" not in data else Path(data).name


def card_of(
    name: str,
    architecture: str,
    settings: ModelFolderSettings,
    tokenizer: VQVAEConfig,
    attribution: list[str],
    figures: Mapping[str, Any] | None,
) -> ModelCard:
    """The card. tokenizer: config of the image tokenizer. attribution: lines of NOTICE. figures: of evaluation.json."""
    trained_on = settings.trained_on or {}
    data = data_name(trained_on.get("data", "unknown"))
    metadata = ModelCardData(
        license=license_of(attribution),
        library_name="vqlm",
        pipeline_tag=TASK if tokenizer.takes_pictures else None,
        tags=["transformers", "safetensors", "vq-vae", "autoregressive", architecture],
        datasets=data.removeprefix("hf:").split(":")[0] if data.startswith("hf:") else None,
        model_name=name if figures else None,
        eval_results=_results(figures, data) if figures else None,
    )
    shape, codes = "x".join(map(str, tokenizer.network.input_shape)), tokenizer.tokens_per_image
    what = "pictures" if tokenizer.takes_pictures else "arrays"
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        WRITTEN_HERE,
        "",
        f"# {name}",
        "",
        f"Draws a prompt. A VQ-VAE turns {what} of {shape} into {codes} codes of {tokenizer.codebook_size}; captions "
        f"and codes share one vocabulary, and a stock {architecture} language model continues a caption with the codes "
        f"of a picture. It knows captions of up to {settings.max_caption_tokens} tokens.",
        "",
        "## Trained on",
        "",
        *_data_lines(data, trained_on.get("pictures", {}), attribution),
        *(_figure_lines(figures) if figures else []),
        *_loading_lines(name, tokenizer.takes_pictures),
    ]
    return ModelCard("\n".join(lines) + "\n")


def _data_lines(data: str, pictures: Mapping[str, int], attribution: list[str]) -> list[str]:
    counts = ", ".join(
        f"{count:,} {'pictures trained on' if split == 'train' else f'held out ({split})'}"
        for split, count in pictures.items()
    )
    lines = [f"{data}: {counts}." if counts else "What it was trained on is not recorded."]
    if attribution:
        return [*lines, "", *attribution]
    return [
        *lines,
        "",
        "No licence of the pictures is recorded; find out which it is before you share this model.",
    ]


def _default_recall(figures: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    scale = f"{figures['default_sampling']['guidance_scale']:g}"
    return {split: by_scale[scale] for split, by_scale in figures["retrieval"].items() if scale in by_scale}


def _results(figures: Mapping[str, Any], data: str) -> list[EvalResult]:
    def result(split: str, metric: str, title: str, value: float) -> EvalResult:
        return EvalResult(TASK, data, data, metric, value, dataset_split=split, metric_name=title)

    results = [result("held_out", "psnr", "PSNR of the image tokenizer, dB", round(figures["held_out_psnr_db"], 2))]
    for split, nll in figures["held_out_image_nll"].items():
        results.append(result(split, "nll", "image NLL, nats per code", round(nll, 3)))
    for split, recall in _default_recall(figures).items():
        results.append(result(split, "recall@1", "R@1 of a drawn picture", round(recall["r1"], 3)))
        results.append(result(split, "recall@10", "R@10 of a drawn picture", round(recall["r10"], 3)))
    return results


def _figure_lines(figures: Mapping[str, Any]) -> list[str]:
    recalls = _default_recall(figures)
    lines = [
        "",
        "## Figures",
        "",
        f"Held-out PSNR of the image tokenizer: {figures['held_out_psnr_db']:.2f} dB. One picture drawn for each "
        "held-out prompt with the saved defaults; R@k is the share of prompts whose own reconstruction is among the k "
        "nearest to it in the whole collection, by pixel distance.",
        "",
        "| held-out set | image NLL, nats per code | R@1 | R@10 |",
        "|---|---|---|---|",
    ]
    for split, nll in figures["held_out_image_nll"].items():
        recall = recalls.get(split)
        cells = [f"{100 * recall[name]:.1f}%" for name in ("r1", "r10")] if recall else ["", ""]
        lines.append(f"| {split} | {nll:.3f} | {cells[0]} | {cells[1]} |")
    return lines


def _loading_lines(name: str, takes_pictures: bool) -> list[str]:
    transformers_interfaces = [
        "",
        "With the interfaces of transformers, once `vqlm` is imported:",
        "",
        "```python",
        "import vqlm",
        "from transformers import AutoProcessor, pipeline",
        "",
        f'picture = pipeline("{TASK}", model="{name}")("a prompt").images[0]',
        f'inputs = AutoProcessor.from_pretrained("{name}")(text=["a prompt"])  # for model.generate(**inputs)',
        "```",
    ]
    return [
        "",
        "## Load it",
        "",
        "From a copy of this folder, or by its name on the hub. vqlm is not on PyPI: install it from a checkout of its "
        "repository, or from a wheel file of it, by the path of either.",
        "",
        "```sh",
        "pip install /path/to/vqlm",
        "```",
        "",
        "```python",
        "from vqlm import TextToImagePipeline",
        "",
        f'pictures = TextToImagePipeline.from_pretrained("{name}")("a prompt").images',
        "```",
        *(transformers_interfaces if takes_pictures else []),
        "",
        "Without vqlm (`pip install torch transformers`), as a language model whose tokens are words and codes:",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")',
        'ids = model.generate(**tokenizer("<bos>a prompt<image>", return_tensors="pt"))',
        "```",
    ]

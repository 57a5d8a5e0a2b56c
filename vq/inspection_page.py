"""The page of an inspection: findings in words, figures, and pictures. Needs matplotlib."""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vqlm.vq.inspection import BATCH, Inspection
from vqlm.vq.model import VQVAE
from vqlm.vq.pixels import picture_grid, to_pixel_values

CODES_SHOWN, CODES_PER_ROW = 256, 32
WORST_SHOWN = 12
NEIGHBORHOOD = 3  # codes across


def write_page(
    inspection: Inspection,
    sentences: list[str],
    model: VQVAE,
    pictures: UInt8[Tensor, "n c *shape"] | Float[Tensor, "n c *shape"],
    output: Path,
) -> None:
    """`inspection.md` and its pictures in `output`."""
    draw_figures(inspection, model).savefig(output / "figures.png", dpi=110)
    lines = [
        "# Inspection of an image tokenizer", "",
        *([f"- {sentence}" for sentence in sentences] or ["Nothing found that is wrong."]), "",
        "| figure | value |", "|---|---|",
        f"| pictures | {len(inspection.psnr)} |",
        f"| PSNR, dB: mean; worst, 10%, median, 90%, best | {_spread(inspection.psnr, 2)} |",
    ]  # fmt: skip
    if inspection.ssim is not None:
        lines.append(f"| SSIM: mean; worst, 10%, median, 90%, best | {_spread(inspection.ssim, 3)} |")
    dead = (inspection.counts == 0).sum(1).tolist()
    lines += [
        f"| perplexity | {inspection.perplexity:.0f} of {model.config.codebook_size} |",
        f"| codes never used | {', '.join(map(str, dead))} ({100 * (1 - inspection.usage):.1f}%) |",
    ]
    if inspection.z_e is not None and inspection.z_q is not None:
        lengths = [
            part.norm(dim=1).mean() for part in (inspection.z_e, inspection.z_q, inspection.z_e - inspection.z_q)
        ]
        lines.append(f"| mean length of z_e, z_q, z_e - z_q | {', '.join(f'{length:.3g}' for length in lengths)} |")
    lines += [
        "", "How often each code is used, the commonest first; PSNR and SSIM of the pictures; entropy of the code at "
        "each position; z_e (grey) and the codes (red), on the two axes along which z_e varies most:", "",
        "![figures](figures.png)",
    ]  # fmt: skip
    if model.config.network.spatial_dims == 2:
        worst = model.fit_size(to_pixel_values(pictures[inspection.worst_first[:WORST_SHOWN]]).to(model.device))
        picture_grid([worst, model.decode_codes(model.encode(worst))]).save(output / "worst.png")
        lines += ["", "The worst reconstructions, the worst first:", "", "![worst](worst.png)"]
        if model.config.quantizer.num_codebooks == 1:
            save_codebook(model, pictures, inspection.counts[0], output / "codebook.png")
            lines += [
                "", f"The {CODES_SHOWN} commonest codes, each alone and, below, in its commonest neighbourhood:", "",
                "![codebook](codebook.png)",
            ]  # fmt: skip
    (output / "inspection.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _spread(values: Tensor, digits: int) -> str:
    quantiles = values.quantile(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])).tolist()
    return f"{values.mean():.{digits}f}; " + ", ".join(f"{value:.{digits}f}" for value in quantiles)


def draw_figures(inspection: Inspection, model: VQVAE):
    """A matplotlib figure: usage, quality, entropy by position, z_e among the codes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 3.6), layout="constrained")
    usage, quality, entropy, neighbors = figure.subplots(1, 4)
    for number, counts in enumerate(inspection.counts):
        usage.plot((counts / counts.sum()).sort(descending=True).values.numpy(), label=f"codebook {number + 1}")
    usage.set_yscale("log")
    usage.set(xlabel="code, by rank", ylabel="share of all codes")
    if len(inspection.counts) > 1:
        usage.legend()
    quality.hist(inspection.psnr.tolist(), bins=40)
    quality.set(xlabel="PSNR, dB", ylabel="pictures")
    if inspection.ssim is not None:
        similarity = quality.twiny()
        similarity.hist(inspection.ssim.tolist(), bins=40, histtype="step", color="black")
        similarity.set_xlabel("SSIM (outline)")
    # The largest codebook's positions: of several a position the first, of a hierarchy the lowest level.
    by_position = max(inspection.position_entropy, key=torch.numel)
    rows = by_position.reshape(len(by_position), -1) if by_position.ndim > 1 else by_position[None]
    image = entropy.imshow(rows.numpy())
    figure.colorbar(image, label="nats")
    entropy.set(xlabel="position", ylabel="position")
    if inspection.z_e is None or inspection.z_q is None or inspection.z_e.shape[1] < 2:
        neighbors.set_axis_off()
        return figure
    centre = inspection.z_e.mean(0)
    axes = torch.linalg.svd(inspection.z_e - centre, full_matrices=False).Vh[:2].T
    vectors = model.quantizer.code_vectors()
    codes = inspection.z_q if vectors is None else vectors.detach().cpu()
    for points, style in ((inspection.z_e, {"s": 1, "color": "lightgrey"}), (codes, {"s": 3, "color": "firebrick"})):
        neighbors.scatter(*((points - centre) @ axes).T.numpy(), **style)
    neighbors.set(xlabel="first axis", ylabel="second axis")
    return figure


@torch.no_grad()
def save_codebook(model: VQVAE, pictures: UInt8[Tensor, "n c h w"], counts: Tensor, path: Path) -> None:
    """Two rows of patches for every `CODES_PER_ROW` codes: each amid itself, and amid its commonest neighbours."""
    shown = counts.argsort(descending=True)[: min(CODES_SHOWN, int((counts > 0).sum()))]
    shown = shown[: max(1, len(shown) // CODES_PER_ROW) * CODES_PER_ROW]
    codes = torch.cat([model.encode(to_pixel_values(part).to(model.device)).cpu() for part in pictures.split(BATCH)])
    alone = shown.view(-1, 1, 1).expand(-1, NEIGHBORHOOD, NEIGHBORHOOD)
    around = torch.stack([commonest_neighborhood(codes, int(code)) for code in shown])
    patches = []
    for blocks in (alone, around):
        decoded = torch.cat([model.decode_codes(part.to(model.device)) for part in blocks.split(BATCH)])
        factor = model.config.downsample_factor
        patches.append(decoded if blocks is around else decoded[..., factor:-factor, factor:-factor])
    side = patches[1].shape[-1]
    patches[0] = torch.nn.functional.interpolate(patches[0], size=(side, side))
    rows = [row for pair in zip(*(kind.split(CODES_PER_ROW) for kind in patches), strict=True) for row in pair]
    picture_grid(rows).save(path)


def commonest_neighborhood(codes: Tensor, code: int) -> Tensor:
    """The block of codes, (3, 3), that most often surrounds `code`; edges are repeated. codes: (N, h, w)."""
    reach = NEIGHBORHOOD // 2
    padded = torch.nn.functional.pad(codes.float().unsqueeze(1), [reach] * 4, mode="replicate").long().squeeze(1)
    number, row, column = (codes == code).nonzero().T
    steps = torch.arange(NEIGHBORHOOD)
    blocks = padded[number[:, None, None], row[:, None, None] + steps[:, None], column[:, None, None] + steps]
    kinds, count = blocks.unique(dim=0, return_counts=True)
    return kinds[count.argmax()]

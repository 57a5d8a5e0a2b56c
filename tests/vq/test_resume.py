"""N steps are N/2, a stop, and N/2 more, bit for bit: every quantizer, with an adversary, accumulation and workers."""

import signal

import pytest
import torch
from file_operations import killed_everywhere

from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import is_kind, require_kind
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig
from vqlm.vq.quantizers.settings import CONFIGS
from vqlm.vq.settings import LossConfig, VQTrainingConfig
from vqlm.vq.train import train_vq

pytestmark = pytest.mark.slow

SMALL = {"codebook_size": 16, "codebook_dim": 4}
QUANTIZERS = {
    "vq": VQConfig(**SMALL),
    "gradient": VQConfig(**SMALL, codebook_training="gradient"),
    "simvq": VQConfig(**SMALL, codebook_training="simvq"),
    "rotation": VQConfig(**SMALL, gradient_estimator="rotation", distance="cosine"),
    "fsq": CONFIGS["fsq"](levels=[4, 4]),
    "lfq": CONFIGS["lfq"](codebook_size=16),
    "residual": CONFIGS["residual"](**SMALL),
    "grouped": CONFIGS["grouped"](**SMALL),
    "hierarchical": CONFIGS["hierarchical"](**SMALL, level_channels=8, level_residual_layers=1),
}
ADVERSARY = LossConfig(adversarial_weight=0.5, adversarial_start=1, discriminator_channels=8)
VARIANTS = {
    "plain": {},
    "augmented": {"flip": 0.5, "max_shift": 1},
    "adversary": {"loss": ADVERSARY},
    "accumulated": {"loss": ADVERSARY, "gradient_accumulation_steps": 3},
    "workers": {"num_workers": 2, "flip": 0.5},
}
STEPS, STOP = 6, 3
NETWORK = NetworkConfig(input_shape=[8, 8], strides=[2, 2], stem_channels=8, hidden_channels=8, num_residual_layers=1)


def test_every_type_is_here():
    assert {config.type for config in QUANTIZERS.values()} == set(CONFIGS)


@pytest.fixture
def train(tmp_path):
    pictures = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def run(output: str, quantizer: str, settings: dict, resume: bool = False) -> VQVAE:
        common = {"max_steps": STEPS, "batch_size": 8, "mixed_precision": "no", "eval_every": 100}
        model_config = VQVAEConfig(network=NETWORK, quantizer=QUANTIZERS[quantizer])
        config = VQTrainingConfig(**(common | settings))
        return train_vq(pictures, pictures[:4], tmp_path / output, model_config, config, resume=resume)

    return run


@pytest.mark.parametrize(
    ("quantizer", "variant"),
    [(quantizer, variant) for quantizer in QUANTIZERS for variant in ("plain", "accumulated")]
    + [("vq", variant) for variant in ("augmented", "adversary", "workers")],
)
def test_resumed_equals_uninterrupted(train, monkeypatch, quantizer, variant):
    settings = VARIANTS[variant]
    whole = train("whole", quantizer, settings)
    advance = Run._advance

    def stopping(run):
        if run.state.step + 1 == STOP:
            run._stop_signals.received = signal.SIGTERM
        advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", stopping)
        with pytest.raises(Interrupted) as stopped:
            train("halves", quantizer, settings)
    assert stopped.value.message == f"train_vq stopped at step {STOP}"
    halves = train("halves", quantizer, settings, resume=True)
    differing = [
        name for name, value in whole.state_dict().items() if not torch.equal(value, halves.state_dict()[name])
    ]
    assert differing == []
    assert whole.config.training_record["held_out_psnr_db"] == halves.config.training_record["held_out_psnr_db"]


def test_a_save_killed_at_any_file_is_done_again(train, tmp_path):
    settings = {"max_steps": 2, "eval_every": 2}
    with pytest.raises(Interrupted):
        train("model", "vq", settings | {"stop_after": 1})
    states = set()

    def look() -> None:
        states.add(is_whole := is_kind(tmp_path / "model", "image tokenizer"))
        if is_whole:
            VQVAE.from_pretrained(tmp_path / "model")
        else:
            with pytest.raises(UserError, match="is not finished; continue it with `vqlm train-vq` and `resume`"):
                require_kind(tmp_path / "model", "image tokenizer")

    kills = killed_everywhere(tmp_path / "model", lambda: train("model", "vq", settings, resume=True), look)
    assert states == {False, True}
    assert kills > 15

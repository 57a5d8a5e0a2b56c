"""Drawing rows that come and go: each has its own prompt, settings and random numbers; a step draws one code of each.

`vqlm.lm.decoding.draw.draw_codes` draws whole batches in lockstep, all rows with the same settings. There a step can be
a CUDA graph or compiled for its number of rows, which a batch that changes from step to step cannot. Both run the same
layers and the same sampling, so a row draws the same codes in either.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.draw import UNKNOWN
from vqlm.lm.decoding.sampling import guided_logits, require_finite, sample
from vqlm.lm.decoding.slots import build_slots
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError


@dataclass(eq=False)
class Row:
    """One picture to draw, and its codes so far.

    Args:
        prompt: ids `bos caption boi`.
        settings: how its codes are drawn.
        uniform: (n,) numbers in [0, 1), one for each of the picture's n codes, of `draw_uniform`.
        negative_prompt: what guidance leads away from; by default no prompt.
        known: (n,) codes that stay, `UNKNOWN` where one is to be drawn; by default all are drawn.

    `uniform_numbers` and `known_codes` are the two as lists, of one number per code.
    """

    prompt: list[int]
    settings: SamplingConfig
    uniform: Float[Tensor, " n"]
    negative_prompt: list[int] | None = None
    known: Int[Tensor, " n"] | None = None
    codes: list[int] = field(default_factory=list, init=False)

    def __post_init__(self):
        self.uniform_numbers = self.uniform.tolist()
        self.known_codes = [UNKNOWN] * len(self.uniform_numbers) if self.known is None else self.known.tolist()
        if len(self.known_codes) != len(self.uniform_numbers):
            raise UserError(
                f"known has {len(self.known_codes)} codes, uniform {len(self.uniform_numbers)}; both need one per code."
            )

    @property
    def slots(self) -> int:
        """Rows of the cache that it takes: guidance needs a second one."""
        return 2 if self.settings.is_guided else 1

    @property
    def is_finished(self) -> bool:
        return len(self.codes) == len(self.uniform_numbers)


class Stepper:
    """Draws up to `max_slots` rows at a time; a row with guidance takes two slots.

    Args:
        model: a causal language model; it must not be trained meanwhile.
        vocabulary: its vocabulary.
        num_codes: codes of a picture.
        max_slots: rows of the cache, whose memory is taken once and used again.
        max_prompt: ids of the longest prompt.

    Raises:
        UserError: for a model that keeps no cache of every id.

    Example:
        >>> from vqlm import SamplingConfig
        >>> from vqlm.lm.decoding.stepper import Row, Stepper
        >>> num_codes = pipe.image_tokenizer.config.tokens_per_image
        >>> stepper = Stepper(pipe.model, pipe.vocabulary, num_codes, max_slots=4, max_prompt=24)
        >>> prompt = [pipe.vocabulary.bos, *pipe.vocabulary.encode_text(["red heart"])[0], pipe.vocabulary.boi]
        >>> stepper.join([Row(prompt, SamplingConfig(), torch.rand(num_codes))])
        >>> finished = []
        >>> while not finished:
        ...     finished = stepper.step()
        >>> len(finished[0].codes) == num_codes
        True
    """

    def __init__(
        self, model: PreTrainedModel, vocabulary: Vocabulary, num_codes: int, max_slots: int = 64, max_prompt: int = 66
    ):
        self.vocabulary, self.num_codes, self.device = vocabulary, num_codes, model.device
        self.max_slots, self.max_prompt = max_slots, max_prompt
        legal = slice(vocabulary.image.offset, vocabulary.image.stop)
        self._slots = build_slots(model, legal, vocabulary.pad, max_slots, max_prompt + num_codes)
        self.rows: list[Row] = []
        self._owners: list[tuple[Row, bool]] = []  # of each slot: its row, and whether it is the unconditional one
        self._logits: Tensor | None = None

    @property
    def free_slots(self) -> int:
        return self.max_slots - len(self._owners)

    def join(self, rows: list[Row]) -> None:
        """Read the rows' prompts. Their first codes are drawn in the next step.

        Raises UserError for rows that do not fit: more than are free, a longer prompt, another number of codes.
        """
        if not rows:
            return
        self._check(rows)
        owners, read = [], []
        for row in rows:
            num_known = next((n for n, code in enumerate(row.known_codes) if code == UNKNOWN), self.num_codes - 1)
            row.codes = row.known_codes[:num_known]
            ids = [code + self.vocabulary.image.offset for code in row.codes]
            unconditional = row.negative_prompt or [self.vocabulary.bos, self.vocabulary.boi]
            for prompt, is_unconditional in ((row.prompt, False), (unconditional, True))[: row.slots]:
                owners.append((row, is_unconditional))
                read.append(prompt + ids)
        logits = self._slots.join(read)
        self._logits = logits if self._logits is None else torch.cat([self._logits, logits])
        self.rows += rows
        self._owners += owners

    def step(self) -> list[Row]:
        """Draw the next code of every row. Returns those that are finished, which have left.

        Raises UserError if the model's logits are not finite.
        """
        if self._logits is None:
            return []
        require_finite(self._logits, "a code")
        for settings, (rows, places, unconditional_places) in self._groups().items():
            unconditional = self._logits[unconditional_places] if unconditional_places else None
            uniform = torch.tensor([row.uniform_numbers[len(row.codes)] for row in rows], device=self.device)
            guided = guided_logits(self._logits[places], unconditional, settings)
            for row, code in zip(rows, sample(guided, uniform, settings.temperature).tolist(), strict=True):
                known = row.known_codes[len(row.codes)]
                row.codes.append(code if known == UNKNOWN else known)
        finished = [row for row in self.rows if row.is_finished]
        self.leave(finished)
        if self._owners:
            ids = torch.tensor([row.codes[-1] for row, _ in self._owners], device=self.device)
            self._logits = self._slots.step(ids + self.vocabulary.image.offset)
        return finished

    def leave(self, rows: list[Row]) -> None:
        """Free the slots of these rows, finished or not."""
        if not rows:
            return
        gone = set(map(id, rows))
        order = [place for place, (row, _) in enumerate(self._owners) if id(row) not in gone]
        # The last rows take the free slots, so that few are moved.
        count = len(order)
        late = [place for place in order if place >= count]
        stays = set(order)
        order = [place if place in stays else late.pop() for place in range(count)]
        self.rows = [row for row in self.rows if id(row) not in gone]
        self._owners = [self._owners[place] for place in order]
        self._slots.keep(order)
        self._logits = self._logits[order] if order else None  # type: ignore[index]

    def _groups(self) -> dict[SamplingConfig, tuple[list[Row], list[int], list[int]]]:
        """Rows whose next code is drawn with the same settings, with their slots and those without their prompt."""
        groups: dict[SamplingConfig, tuple[list[Row], list[int], list[int]]] = {}
        where: dict[int, dict[bool, int]] = {}
        for place, (row, is_unconditional) in enumerate(self._owners):
            where.setdefault(id(row), {})[is_unconditional] = place
        for row in self.rows:
            # A schedule may come to a scale of 1, where the unconditional row does not count.
            settings = row.settings.at(len(row.codes), self.num_codes)
            rows, places, unconditional_places = groups.setdefault(settings, ([], [], []))
            rows.append(row)
            places.append(where[id(row)][False])
            if settings.is_guided:
                unconditional_places.append(where[id(row)][True])
        return groups

    def _check(self, rows: list[Row]) -> None:
        if (needed := sum(row.slots for row in rows)) > self.free_slots:
            raise UserError(f"{needed} slots are needed, {self.free_slots} of {self.max_slots} are free; join later.")
        for row in rows:
            if len(row.uniform_numbers) != self.num_codes:
                raise UserError(
                    f"uniform must have {self.num_codes} numbers, one per code; found {len(row.uniform_numbers)}."
                )
            longest = max(len(row.prompt), len(row.negative_prompt or []))
            if longest > self.max_prompt:
                raise UserError(f"A prompt has {longest} ids, this stepper takes at most {self.max_prompt}.")

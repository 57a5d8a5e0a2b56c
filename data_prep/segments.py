"""One mixed row of ids from text, pictures, series and other modalities in any order, and back.

bos a cat boi 17 4 ... eoi its heartbeat <series> 3 3 1 ... </series> eos
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError

TEXT = "text"


@dataclass
class Segment:
    """A part of a row in one modality. content: text, or codes (n,) int64 in [0, K)."""

    modality: str
    content: str | Tensor


def row_of(vocabulary: Vocabulary, segments: Sequence[Segment]) -> list[int]:
    """Vocabulary ids of the segments in order, between bos and eos. Codes stand between their begin and end tokens.

    Raises UserError for a modality that the vocabulary does not have, or a code out of range.
    """
    ids = [vocabulary.bos]
    for segment in segments:
        if isinstance(segment.content, str):
            ids += vocabulary.encode_text([segment.content])[0]
            continue
        if segment.modality not in vocabulary.modalities:
            raise UserError(
                f"The vocabulary has no modality {segment.modality!r}, only {', '.join(vocabulary.modalities)}; "
                'prepare the data with `modalities` {"NAME": number of codes}.'
            )
        modality = vocabulary.modalities[segment.modality]
        ids += [modality.begin, *vocabulary.codes_to_ids(segment.content, segment.modality).tolist(), modality.end]
    return [*ids, vocabulary.eos]


def segments_of(vocabulary: Vocabulary, ids: Sequence[int]) -> list[Segment]:
    """The inverse of `row_of`. Raises UserError that names the position of the first id that does not fit."""
    ids = list(ids)
    if not ids or ids[0] != vocabulary.bos or ids[-1] != vocabulary.eos:
        raise UserError(
            f"A row begins with {vocabulary.bos} (bos) and ends with {vocabulary.eos} (eos); found {ids[:9]}."
        )
    by_begin = {modality.begin: modality for modality in vocabulary.modalities.values()}
    segments, place, end = [], 1, len(ids) - 1
    while place < end:
        start = place
        if ids[place] in by_begin:
            modality = by_begin[ids[place]]
            place += 1
            while place < end and modality.offset <= ids[place] < modality.stop:
                place += 1
            if place == end or ids[place] != modality.end:
                raise UserError(
                    f"Position {place} of the row must hold a code of {modality.name} or its end token {modality.end}, "
                    f"found the id {ids[place]}."
                )
            codes = vocabulary.ids_to_codes(torch.tensor(ids[start + 1 : place], dtype=torch.int64), modality.name)
            segments.append(Segment(modality.name, codes))
            place += 1
            continue
        while place < end and ids[place] < vocabulary.text_size:
            place += 1
        if place == start:
            raise UserError(
                f"Position {place} of the row must hold text or the begin token of a modality, found the id "
                f"{ids[place]}."
            )
        segments.append(Segment(TEXT, vocabulary.decode_text(ids[start:place])))
    return segments

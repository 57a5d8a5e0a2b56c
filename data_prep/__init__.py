"""Collections of captioned pictures, caption BPE, the one vocabulary, mixed sequences, prepared sets."""

from data_prep.collection import Collection, load_collection
from data_prep.pictures import load_pictures
from data_prep.prepare import PreparedSet, load_image_tokenizer, prepare
from data_prep.sequences import SequenceConfig, TextToImageCollator
from data_prep.vocabulary import Modality, Vocabulary

__all__ = [
    "Collection",
    "Modality",
    "PreparedSet",
    "SequenceConfig",
    "TextToImageCollator",
    "Vocabulary",
    "load_collection",
    "load_image_tokenizer",
    "load_pictures",
    "prepare",
]

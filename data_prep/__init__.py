"""Collections of captioned pictures, caption BPE, the one vocabulary, mixed sequences, prepared sets."""

from data_prep.collection import DATA_HELP, Collection, CollectionConfig, load_collection
from data_prep.decoding import LoadedPictures, load_pictures
from data_prep.pictures import ViewConfig
from data_prep.prepare import prepare
from data_prep.prepared_set import PreparedSet, load_image_tokenizer
from data_prep.sequences import RowCollator, SequenceConfig
from data_prep.text import TextConfig
from data_prep.vocabulary import Modality, Vocabulary

__all__ = [
    "DATA_HELP",
    "Collection",
    "CollectionConfig",
    "LoadedPictures",
    "Modality",
    "PreparedSet",
    "RowCollator",
    "SequenceConfig",
    "TextConfig",
    "ViewConfig",
    "Vocabulary",
    "load_collection",
    "load_image_tokenizer",
    "load_pictures",
    "prepare",
]

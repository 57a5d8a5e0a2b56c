from .collections.collection import Collection as Collection
from .collections.collection_loading import load_collection as load_collection
from .collections.picture_loading import (
    LoadedPictures as LoadedPictures,
    load_pictures as load_pictures,
)
from .preparation import prepare as prepare
from .prepared_set import PreparedSet as PreparedSet
from .sequences import RowCollator as RowCollator
from .settings import (
    DATA_HELP as DATA_HELP,
    CollectionConfig as CollectionConfig,
    SequenceConfig as SequenceConfig,
    TextConfig as TextConfig,
    ViewConfig as ViewConfig,
)
from .vocabulary import (
    Modality as Modality,
    Vocabulary as Vocabulary,
)

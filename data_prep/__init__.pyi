from .collection import (
    Collection as Collection,
)
from .collection import (
    load_collection as load_collection,
)
from .loading import (
    LoadedPictures as LoadedPictures,
)
from .loading import (
    load_pictures as load_pictures,
)
from .preparation import prepare as prepare
from .prepared_set import PreparedSet as PreparedSet
from .sequences import RowCollator as RowCollator
from .settings import (
    DATA_HELP as DATA_HELP,
)
from .settings import (
    CollectionConfig as CollectionConfig,
)
from .settings import (
    SequenceConfig as SequenceConfig,
)
from .settings import (
    TextConfig as TextConfig,
)
from .settings import (
    ViewConfig as ViewConfig,
)
from .vocabulary import (
    Modality as Modality,
)
from .vocabulary import (
    Vocabulary as Vocabulary,
)

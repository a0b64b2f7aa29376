"""Public names of topwork: the one list, read by type checkers and, at run time, by `topwork.lazy`."""

from topwork.api import (
    build as build,
)
from topwork.api import (
    compress as compress,
)
from topwork.api import (
    from_pretrained as from_pretrained,
)
from topwork.api import (
    importance as importance,
)
from topwork.api import (
    load as load,
)
from topwork.api import (
    look as look,
)
from topwork.api import (
    mask_heads as mask_heads,
)
from topwork.api import (
    predict as predict,
)
from topwork.api import (
    prune as prune,
)
from topwork.api import (
    prune_heads as prune_heads,
)
from topwork.api import (
    resume as resume,
)
from topwork.api import (
    run as run,
)
from topwork.api import (
    save_pretrained as save_pretrained,
)
from topwork.attention_layer import (
    AttentionLayer as AttentionLayer,
)
from topwork.attention_layer import (
    Size as Size,
)
from topwork.attention_layer import (
    Slices as Slices,
)
from topwork.base import (
    Base as Base,
)
from topwork.base import (
    BaseOptions as BaseOptions,
)
from topwork.base import (
    Features as Features,
)
from topwork.block import (
    Block as Block,
)
from topwork.block import (
    Producer as Producer,
)
from topwork.cli.rows import (
    require_model_folder as require_model_folder,
)
from topwork.data.cells import (
    list_in_text as list_in_text,
)
from topwork.data.options import (
    DataOptions as DataOptions,
)
from topwork.data.options import (
    RowsOptions as RowsOptions,
)
from topwork.data.splits import (
    choose_split as choose_split,
)
from topwork.data.splits import (
    split_named as split_named,
)
from topwork.data.table import (
    Origin as Origin,
)
from topwork.data.table import (
    Table as Table,
)
from topwork.data.values import (
    single_input as single_input,
)
from topwork.errors import (
    CheckpointError as CheckpointError,
)
from topwork.errors import (
    DataError as DataError,
)
from topwork.errors import (
    PluginError as PluginError,
)
from topwork.errors import (
    Problem as Problem,
)
from topwork.errors import (
    RecipeError as RecipeError,
)
from topwork.errors import (
    Refused as Refused,
)
from topwork.errors import (
    TopworkError as TopworkError,
)
from topwork.errors import (
    UsageError as UsageError,
)
from topwork.errors import (
    listed as listed,
)
from topwork.errors import (
    nearest as nearest,
)
from topwork.errors import (
    unknown as unknown,
)
from topwork.files import (
    write_json as write_json,
)
from topwork.files import (
    write_text as write_text,
)
from topwork.files import (
    write_whole as write_whole,
)
from topwork.hookspecs import (
    hookimpl as hookimpl,
)
from topwork.items import (
    Batch as Batch,
)
from topwork.items import (
    Column as Column,
)
from topwork.items import (
    HasQueryBoxes as HasQueryBoxes,
)
from topwork.items import (
    Item as Item,
)
from topwork.items import (
    Json as Json,
)
from topwork.items import (
    Mode as Mode,
)
from topwork.items import (
    Part as Part,
)
from topwork.items import (
    Picture as Picture,
)
from topwork.items import (
    Prediction as Prediction,
)
from topwork.items import (
    QueryBox as QueryBox,
)
from topwork.items import (
    Row as Row,
)
from topwork.items import (
    RowsView as RowsView,
)
from topwork.items import (
    Units as Units,
)
from topwork.items import (
    map_tensors as map_tensors,
)
from topwork.kernels.selection import (
    accelerated as accelerated,
)
from topwork.metric import (
    MeanMetric as MeanMetric,
)
from topwork.metric import (
    Metric as Metric,
)
from topwork.notebook.views import (
    Shown as Shown,
)
from topwork.notebook.views import (
    show as show,
)
from topwork.plugins.declaration import (
    Declaration as Declaration,
)
from topwork.plugins.registry import (
    Plugins as Plugins,
)
from topwork.plugins.registry import (
    load_plugins as load_plugins,
)
from topwork.recipe.recipe import (
    Recipe as Recipe,
)
from topwork.recipe.recipe import (
    load_recipe as load_recipe,
)
from topwork.runs.lock import (
    is_running as is_running,
)
from topwork.runs.outputs import (
    changed_outputs as changed_outputs,
)
from topwork.runs.run import (
    Run as Run,
)
from topwork.runs.task_model import (
    TaskModel as TaskModel,
)
from topwork.saving.alterations import (
    alterations as alterations,
)
from topwork.saving.checksum import (
    check_checksum as check_checksum,
)
from topwork.saving.checksum import (
    with_checksum as with_checksum,
)
from topwork.saving.deferred import (
    DeferredModule as DeferredModule,
)
from topwork.saving.programs import (
    save_program as save_program,
)
from topwork.shards.measuring import (
    jackknife_error as jackknife_error,
)
from topwork.shards.sharing import (
    share_rows as share_rows,
)
from topwork.stage import (
    HeadMap as HeadMap,
)
from topwork.stage import (
    PointMap as PointMap,
)
from topwork.stage import (
    RandomBaseline as RandomBaseline,
)
from topwork.stage import (
    Removal as Removal,
)
from topwork.stage import (
    Stage as Stage,
)
from topwork.stage import (
    StageResult as StageResult,
)
from topwork.system.signals import (
    going_on_by as going_on_by,
)
from topwork.task import (
    OutputKind as OutputKind,
)
from topwork.task import (
    OutputNames as OutputNames,
)
from topwork.task import (
    State as State,
)
from topwork.task import (
    Task as Task,
)
from topwork.task import (
    TaskOptions as TaskOptions,
)

__version__: str
__all__: list[str]

# What emomm_lib exports, and from where; read by type checkers and by emomm_lib itself.

from emomm_lib.attention.hook import decoder_attention as decoder_attention
from emomm_lib.attention.knockout import (
    Block as Block,
    Blocking as Blocking,
    Restoring as Restoring,
    block as block,
    replay_blocked as replay_blocked,
    restore as restore,
)
from emomm_lib.attention.record import (
    Trace as Trace,
    mark_modalities as mark_modalities,
    record as record,
)
from emomm_lib.attention.replay import (
    Prefill as Prefill,
    Replayed as Replayed,
    prefill as prefill,
    replay_decision as replay_decision,
)
from emomm_lib.attention.rows import (
    OTHER as OTHER,
    Bias as Bias,
    Intervention as Intervention,
    LayerView as LayerView,
    nmas as nmas,
)
from emomm_lib.chase.equations import SteeringConfig as SteeringConfig
from emomm_lib.chase.gates import (
    ConstantGate as ConstantGate,
    Gate as Gate,
)
from emomm_lib.chase.router import Router as Router, load_router as load_router
from emomm_lib.chase.saliency import (
    attention_importance as attention_importance,
    gradient_importance as gradient_importance,
)
from emomm_lib.chase.steer import (
    Decisions as Decisions,
    Steered as Steered,
    Steerer as Steerer,
    replay as replay,
    steer as steer,
)
from emomm_lib.chase.targets import (
    conflict_target as conflict_target,
    correctness as correctness,
    gate_target as gate_target,
)
from emomm_lib.chase.training import (
    RouterStates as RouterStates,
    RouterTargets as RouterTargets,
    TrainingSettings as TrainingSettings,
    routed as routed,
    router_loss as router_loss,
    train_router as train_router,
)
from emomm_lib.labels import (
    CLASSES as CLASSES,
    COALITIONS as COALITIONS,
    LABEL_SETS as LABEL_SETS,
    LETTERS as LETTERS,
    MODALITIES as MODALITIES,
    SENTIMENT5 as SENTIMENT5,
    SOURCES as SOURCES,
    LabelSet as LabelSet,
    polarity as polarity,
)
from emomm_lib.metrics.bootstrap import (
    Bootstrap as Bootstrap,
    Interval as Interval,
    bootstrap_interval as bootstrap_interval,
    interval_of as interval_of,
    intervals_of as intervals_of,
    paired_bootstrap as paired_bootstrap,
)
from emomm_lib.metrics.fleiss import fleiss_of as fleiss_of, fleiss_parts as fleiss_parts
from emomm_lib.metrics.gtar import (
    SETTINGS as SETTINGS,
    conflict_parts as conflict_parts,
    gtar_frame as gtar_frame,
    target_conflict as target_conflict,
)
from emomm_lib.metrics.nmas import (
    TraceTable as TraceTable,
    layer_budget as layer_budget,
    layer_nmas as layer_nmas,
    layer_shares as layer_shares,
    nmas_by_layer as nmas_by_layer,
)
from emomm_lib.metrics.paired import (
    equivalence_frame as equivalence_frame,
    exact_mcnemar as exact_mcnemar,
    marginal_gain as marginal_gain,
    paired_frame as paired_frame,
)
from emomm_lib.metrics.pairs import pair_frame as pair_frame
from emomm_lib.metrics.psmv import (
    coalition_accuracy as coalition_accuracy,
    psmv as psmv,
    psmv_frame as psmv_frame,
    psmv_shares as psmv_shares,
)
from emomm_lib.metrics.reference import (
    READERS as READERS,
    product_outcomes as product_outcomes,
    reader_outcomes as reader_outcomes,
)
from emomm_lib.metrics.routing import (
    routing_metrics as routing_metrics,
)
from emomm_lib.metrics.scores import (
    METRICS as METRICS,
    N_CLASSES as N_CLASSES,
    Metric as Metric,
    accuracy2 as accuracy2,
    accuracy2_signed as accuracy2_signed,
    accuracy5 as accuracy5,
    agreement as agreement,
    agreement_matrix as agreement_matrix,
    macro_f1 as macro_f1,
    mae as mae,
    metrics_of as metrics_of,
    score_frame as score_frame,
    weighted_f1 as weighted_f1,
)

__version__: str
__all__: list[str]

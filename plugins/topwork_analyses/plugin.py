"""Hooks of the analyses. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from topwork import Declaration, hookimpl

#: stages that study attention heads
_STUDIES_OF_HEADS = (
    Declaration(
        "attention_patterns",
        "topwork_analyses.attention_patterns.stage:AttentionPatterns",
        "Measure where attention heads look: offsets, named tokens, directions, time lags; how broadly, and how alike.",
    ),
    Declaration(
        "head_roles",
        "topwork_analyses.head_roles.stage:HeadRoles",
        "Name roles of attention heads by the keys they attend to most; each must hold again on the other half of"
        " rows.",
    ),
    Declaration(
        "importance_over_training",
        "topwork_analyses.head_effects.over_training:ImportanceOverTraining",
        "Train, and score the attention heads before it and at every evaluation in it: how importance comes about.",
    ),
    Declaration(
        "head_effects",
        "topwork_analyses.head_effects.stage:HeadEffects",
        "Measure what changes without each attention head: intervals over rows, corrected for all attention heads.",
    ),
    Declaration(
        "word_relations",
        "topwork_analyses.word_relations.stage:WordRelations",
        "Compare attention between words with dependencies and coreference: single heads, fixed offsets, a probe.",
    ),
)
#: stages that study hidden states, syntax and relevance
_STUDIES_OF_STATES = (
    Declaration(
        "edge_probing",
        "topwork_analyses.probing.stage:EdgeProbing",
        "Probe which layer of the frozen model holds what: cumulative probes, control tasks, expected layers.",
    ),
    Declaration(
        "cat_probing",
        "topwork_analyses.syntax.stage:CatProbing",
        "Compare attention with distances in syntax trees (CAT-score), by layer, beside random orders of the tokens.",
    ),
    Declaration(
        "relevance",
        "topwork_analyses.relevance.stage:Relevance",
        "Say which input positions a prediction rests on, by five methods, each with its faithfulness.",
    ),
    Declaration(
        "attribution_patching",
        "topwork_analyses.patching.stage:AttributionPatching",
        "Estimate what each attention head restores of a scalar that noise destroyed, beside exact patches of some.",
    ),
    Declaration(
        "direct_attribution",
        "topwork_analyses.patching.stage:DirectAttributions",
        "Say what each attention head and feed-forward network writes towards a scalar, the final norm frozen.",
    ),
    Declaration(
        "early_exit",
        "topwork_analyses.exits.stage:EarlyExit",
        "Measure the task when its trained head reads the hidden state of each layer (logit lens); nothing is changed.",
    ),
    Declaration(
        "drift",
        "topwork_analyses.similarity.stage:Drift",
        "Compare the model with what it was: similarity of its layers (CKA), and how far attention heads have moved.",
    ),
)


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare the stages of the analyses."""
    return [*_STUDIES_OF_HEADS, *_STUDIES_OF_STATES]

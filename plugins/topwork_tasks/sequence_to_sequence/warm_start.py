"""Encoder-decoders from two checkpoints, and a new encoder in front of a finished sequence-to-sequence model.

Entry points: `build_pair` (an encoder and a decoder warm-started, their weights shared or not: Rothe et al. 2020,
"Leveraging Pre-trained Checkpoints for Sequence Generation Tasks") and `SourceEncoder` (Lewis et al. 2020, BART,
section 3.4). Of a decoder every weight comes from its checkpoint but the cross-attention, which no checkpoint has. The
module imports torch: import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import BertGenerationConfig, BertGenerationDecoder, BertGenerationEncoder, EncoderDecoderModel
from typing_extensions import override

from topwork import Base, UsageError

CAUSAL = "AutoModelForCausalLM"
_CROSS: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}


def build_pair(
    encoder: Base,
    decoder: Base,
    *,
    weights: bool,
    changes: tuple[Mapping[str, Any], Mapping[str, Any]],
    share: bool = False,
    generation: bool = False,
) -> EncoderDecoderModel:
    """Build an EncoderDecoderModel from two bases.

    Args:
        encoder: the base of the encoder.
        decoder: the base of the decoder.
        weights: False makes it with random weights, to be loaded afterwards.
        changes: config entries of encoder and decoder that follow from their tokenizers.
        share: one copy of every weight that both sides have: all but the cross-attention and the output layer.
        generation: take BertGeneration's classes for BERT checkpoints (no token types, no pooler).

    Raises:
        UsageError: a base cannot take its part, or the two cannot share.
    """
    for role, base in (("encoder", encoder), ("decoder", decoder)):
        if getattr(base.config, "is_encoder_decoder", False):
            raise UsageError(
                f"`{base.config.model_type}` is an encoder-decoder itself",
                place=f"base.{role}",
                hint="name it as the only base, or name an encoder or a decoder here",
            )
    first: Any
    model: Any
    if generation:
        first, second = _generation_pair(encoder, decoder, weights, changes)
    else:
        bare: Any = encoder.backbone(weights=weights, is_decoder=False, add_cross_attention=False, **changes[0])
        first = bare.backbone
        second = _decoder(decoder, weights, changes[1])
    model = (SharedEncoderDecoder if share else EncoderDecoderModel)(encoder=first, decoder=second)
    if share:
        model.config.tie_encoder_decoder = True  # as transformers 4 noted it: whoever opens the folder shares again
    model.accepts_loss_kwargs = False
    return model.eval()


def _decoder(base: Base, weights: bool, changes: Mapping[str, Any]) -> Any:
    """Build a causal model with cross-attention; everything else has the checkpoint's weights."""
    try:
        fresh: Any = base.native(CAUSAL, weights=False, **_CROSS, **changes)
    except UsageError as error:
        raise _no_decoder(base) from error
    if fresh is None or not any("cross" in name.lower() for name, _ in fresh.named_parameters()):
        raise _no_decoder(base)
    if weights and not base.scratch:
        plain: Any = base.native(CAUSAL, weights=True, is_decoder=True, **changes)
        _take_over(fresh, plain.state_dict(), base)
    return fresh


def _no_decoder(base: Base) -> UsageError:
    return UsageError(
        f"`{base.config.model_type}` has no decoder with cross-attention in transformers",
        place="base.decoder",
        hint="choose bert, roberta, bert-generation, gpt2 or another that has one",
    )


def _take_over(module: nn.Module, tensors: Mapping[str, torch.Tensor], base: Base) -> None:
    missing, left = module.load_state_dict(tensors, strict=False)
    foreign = [name for name in missing if "cross" not in name.lower()]
    if foreign or left:
        raise UsageError(
            f"weights of the decoder do not fit: {', '.join([*foreign, *left][:4])}",
            place="base.decoder",
            hint=f"is `{base.config.model_type}` a causal language model?",
        )


def _generation_pair(encoder: Base, decoder: Base, weights: bool, changes: tuple[Mapping, Mapping]) -> tuple[Any, Any]:
    for role, base in (("encoder", encoder), ("decoder", decoder)):
        if base.config.model_type != "bert":
            raise UsageError(
                f"`bert_generation` is for bert checkpoints, this is `{base.config.model_type}`", place=f"base.{role}"
            )
    sides: list[Any] = []
    for base, change, causal in ((encoder, changes[0], False), (decoder, changes[1], True)):
        bare: Any = base.backbone(weights=weights, **change)
        bert = bare.backbone
        entries = set(BertGenerationConfig().to_dict()) & set(bert.config.to_dict())
        kept = {key: getattr(bert.config, key) for key in entries - {"model_type", "architectures"}}
        config = BertGenerationConfig(**{**kept, **(_CROSS if causal else {})})
        model: Any = BertGenerationDecoder(config) if causal else BertGenerationEncoder(config)
        inner = model.bert if causal else model
        tensors = {name: tensor for name, tensor in bert.state_dict().items() if "token_type" not in name}
        _take_over(inner, tensors, base)
        sides.append(model)
    return sides[0], sides[1]


# ---------------------------------------------------------------- one copy of the weights


class SharedEncoderDecoder(EncoderDecoderModel):
    """An EncoderDecoderModel whose decoder has the encoder's own parameters, in memory, in the optimizer and on disk.

    `tie_weights` shares again after something replaced parameters; `from_pretrained` fills the decoder's from the
    encoder's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shared = {f"decoder.{theirs}": f"encoder.{name}" for theirs, name in share_weights(self).items()}
        tied = {name: shared.get(source, source) for name, source in self.all_tied_weights_keys.items()}
        self.all_tied_weights_keys = {**tied, **shared}

    @override
    def tie_weights(self, *args: Any, **kwargs: Any) -> Any:
        result = super().tie_weights(*args, **kwargs)
        if hasattr(self, "decoder"):
            share_weights(self)
        return result


def share_weights(model: Any) -> dict[str, str]:
    """Make every parameter of the encoder the decoder's too, wherever the decoder uses it.

    Its output layer as well, when that is tied to its embeddings.

    Returns:
        name in the decoder -> name in the encoder, of every parameter that is one now.

    Raises:
        UsageError: the decoder lacks a parameter of the encoder, or has it in another shape.
    """
    if hasattr(model.encoder, "pooler"):
        model.encoder.pooler = None  # unused, and the decoder has none
    ours = dict(model.encoder.named_parameters())
    theirs = dict(model.decoder.base_model.named_parameters(remove_duplicate=False))
    for name, parameter in ours.items():
        if name not in theirs or theirs[name].shape != parameter.shape:
            raise UsageError(
                f"encoder and decoder cannot share their weights: `{name}` differs",
                place="share",
                hint="name the same base twice, or leave out `share`",
            )
    moved = {id(theirs[name]): (name, parameter) for name, parameter in ours.items()}
    moved |= {id(parameter): (name, parameter) for name, parameter in ours.items()}
    shared = {}
    for path, module in model.decoder.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in moved:
                name, module._parameters[leaf] = moved[id(parameter)]
                shared[f"{path}.{leaf}" if path else leaf] = name
    return shared


# ---------------------------------------------------------------- a new encoder in front


class SourceEncoder(nn.Module):
    """New encoder whose outputs replace the embedded source tokens of a sequence-to-sequence model.

    Args:
        source: a backbone.
        model: a sequence-to-sequence model.

    Train it first with `freeze: [model]`, then as a whole.
    """

    accepts_loss_kwargs = False

    def __init__(self, source: Any, model: Any) -> None:
        super().__init__()
        self.source, self.model = source, model
        self.config = model.config
        self.main_input_name = "input_ids"
        self.bridge = nn.Linear(source.width, model.get_input_embeddings().embedding_dim)

    @property
    def generation_config(self) -> Any:
        """The inner model's generation config."""
        return self.model.generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self.model.generation_config = config

    def _embedded(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.source(input_ids=input_ids, attention_mask=attention_mask).tokens
        return {"inputs_embeds": self.bridge(tokens), "attention_mask": attention_mask}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: Any = None) -> Any:
        """Return the output of the model behind the source encoder, with its loss where there are labels."""
        return self.model(**self._embedded(input_ids, attention_mask), labels=labels)

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the tokens of the target, as the model's own `generate` does."""
        return self.model.generate(**self._embedded(input_ids, attention_mask), **options)

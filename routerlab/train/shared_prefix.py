"""TRL's trainers with prompts that are computed once: those of a GRPO group, and of the two answers of a DPO pair.

The trainers keep their losses, and their log-probabilities in chunks, which never hold logits of tokens x vocabulary.
Only the model's forward pass changes: rows with equal prompts are packed, see `routerlab.routers.attention`.
"""

import functools
import types
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import DynamicCache
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from routerlab.routers.attention import NAME, Pack, pack

PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


def share_prefixes(*models: Any) -> None:
    """From now on these models, the `model` and `ref_model` of a TRL trainer, compute equal prompts once: for its loss
    (GRPO, DPO, RLOO, KTO) and in generation. None is passed over."""
    for model in models:
        base = cast(Any, model.get_base_model() if isinstance(model, PeftModel) else model)
        if base is None or "generate" in vars(base):  # shared already
            continue
        base.set_attn_implementation(NAME)
        base.base_model.register_forward_hook(_predicting, with_kwargs=True)
        base.forward = types.MethodType(_packing(base.forward), base)
        base.generate = types.MethodType(_prefilled(base.generate), base)


def _predicting(_module: Any, _args: Any, given: dict[str, Any], output: Any) -> Any:
    """Keep only the outputs that predict a token of a completion, in the order of the targets."""
    if given.get("predicts") is not None:
        output.last_hidden_state = output.last_hidden_state[:, given["predicts"]]
    return output


def _packing(fused: Any) -> Any:
    @functools.wraps(fused)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **given: Any) -> Any:
        text = {"input_ids", "attention_mask", "labels"}
        others = {k for k, v in given.items() if v is not None} - {"use_cache", "return_dict", "num_items_in_batch"}
        # Pictures, mixtures of experts and batches without labels go the ordinary way.
        if not fused_lm_head or args or others != text or not (given["labels"][:, 1:] != -100).any():
            return fused(*args, fused_lm_head=fused_lm_head, **given)
        packed, places = pack_rows(given["input_ids"], given["attention_mask"], given["labels"])
        inputs = packed.inputs() | {"predicts": packed.predicts, "shift_labels": packed.targets[None]}
        output, mask = fused(fused_lm_head=True, **inputs), given["labels"][:, 1:] != -100
        for name in PER_TOKEN:
            if (values := output.get(name)) is not None:
                spread = values.new_zeros(mask.numel()).index_put((places,), values[0]).view(mask.shape)
                output[name] = spread.masked_fill(~mask, 0)
        total = given.get("num_items_in_batch")
        output.loss = -output.log_probs.sum() / (mask.sum().clamp(min=1) if total is None else total)
        output.label_mask = mask
        return output

    return forward


def pack_rows(ids: torch.Tensor, attended: torch.Tensor, labels: torch.Tensor) -> tuple[Pack, torch.Tensor]:
    """Rows with equal prompts share one prefix; a prompt ends at the first token with a label.

    Returns the pack, and for each of its targets the place in the flattened (rows x (tokens - 1)) log-probabilities.
    """
    groups: dict[tuple[int, ...], list[tuple[list[int], torch.Tensor]]] = {}
    for number, (row, real, scored) in enumerate(
        zip(ids.cpu(), attended.cpu() != 0, labels.cpu() != -100, strict=True)
    ):
        if scored.any():
            first = int(scored.int().argmax())
            prompt, places = tuple(row[:first][real[:first]].tolist()), real[first:].nonzero()[:, 0] + first
            groups.setdefault(prompt, []).append((row[places].tolist(), places - 1 + number * (len(row) - 1)))
    packed = pack([(list(p), [tokens for tokens, _ in ones]) for p, ones in groups.items()], device=ids.device)
    return packed, torch.cat([places for ones in groups.values() for _, places in ones]).to(ids.device)


def _prefilled(generate: Any) -> Any:
    @functools.wraps(generate)
    def generating(self: Any, *args: Any, **given: Any) -> Any:
        ids, mask = given.get("input_ids"), given.get("attention_mask")
        if args or ids is None or mask is None or "past_key_values" in given or ids.shape[1] < 2:
            return generate(*args, **given)
        _, which = torch.unique(torch.cat([ids, mask], 1), dim=0, return_inverse=True)
        firsts = [int((which == one).nonzero()[0, 0]) for one in range(int(which.max()) + 1)]
        rows, seen = ids[firsts, :-1], mask[firsts, :-1]
        cache = DynamicCache(config=self.config)
        where = (seen.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            base = self.base_model
            base(input_ids=rows, attention_mask=seen, position_ids=where, past_key_values=cache, use_cache=True)
        cache.batch_select_indices(which)
        return generate(**given | {"past_key_values": cache, "use_cache": True})

    return generating


class SharedPrefixGRPO(GRPOTrainer):
    """TRL's GRPO with the same losses and samples; groups stay whole and share their prompt."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        share_prefixes(self.model, self.ref_model)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, without the shuffling that would spread a group over `steps_per_generation` batches; which questions
        meet is random already."""
        model, steps = cast(Any, self.model), cast(Any, self.args).steps_per_generation
        if not model.training:
            return super()._prepare_inputs(generation_batch)
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), steps)
        return self._buffered_inputs[self._step % steps]

"""Beam search: the likeliest continuations of a text, looked for side by side.

    beams = beam_search(open_table("demo/table"), [17, 4, 99], beams=4, tokens=16)
    beams[0].ids, beams[0].log_probability

The texts are the rows of one batch over one cache. After each token the best of all continuations are kept, and a text may go on
from what was another's: then its ids, which are the window of the hash, its keys and values, and the inputs of convolutions all
move together. Where one of them stays behind, rows are looked up for a text that is not the one that goes on.
Shapes: B texts, T tokens, N highest order, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engram_cli.errors import ChatError
from engram_cli.model.carrier import CacheLike
from engram_cli.model.generate import TableLike, hash_windows
from engram_cli.model.table import look_up


@dataclass(frozen=True)
class Beam:
    """A continuation: its ids without the end token, the sum of log probabilities, the end's counted, and whether it ended."""

    ids: tuple[int, ...]
    log_probability: float
    ended: bool = False


@torch.inference_mode()
def beam_search(table: TableLike, ids: Sequence[int], beams: int, tokens: int) -> list[Beam]:
    """The likeliest continuations of `ids` that a search with `beams` texts finds, best first, each ended or of `tokens` tokens.

    Raises ChatError where text and continuation do not fit the host's context: nothing is dropped in a search.
    """
    context = table.host.context
    if not (ids and beams > 0 and 0 < tokens <= context - len(ids)):
        raise ChatError(
            f"a search goes on from 1 token or more, with 1 beam or more, within {context} tokens, but these are {len(ids)} "
            f"tokens, {beams} beams and {tokens} tokens more; give a shorter text or fewer tokens"
        )
    cache = table.host.make_cache()
    texts, scores = [list(ids)], torch.zeros(1)
    ended: list[Beam] = []
    for _ in range(tokens):
        total_BV = scores[:, None] + _logits(table, texts, cache).log_softmax(-1)
        best, at = total_BV.flatten().topk(min(2 * beams, total_BV.numel()))  # half of them at most end here
        found = [(score, *divmod(place, total_BV.shape[1])) for score, place in zip(best.tolist(), at.tolist(), strict=True)]
        ended += [Beam(tuple(texts[text][len(ids) :]), score, True) for score, text, token in found[:beams] if token == table.end]
        kept = [one for one in found if one[2] != table.end][:beams]
        ended = sorted(ended, key=lambda beam: -beam.log_probability)[:beams]
        if len(ended) == beams and ended[-1].log_probability >= kept[0][0]:  # what goes on only becomes less likely
            return ended
        cache.reorder([text for _, text, _ in kept])
        texts = [[*texts[text], token] for _, text, token in kept]
        scores = torch.tensor([score for score, _, _ in kept])
    live = [Beam(tuple(text[len(ids) :]), score) for text, score in zip(texts, scores.tolist(), strict=True)]
    return sorted([*ended, *live], key=lambda beam: -beam.log_probability)[:beams]


def _logits(table: TableLike, texts: Sequence[Sequence[int]], cache: CacheLike) -> Tensor:
    """What follows each of the equally long texts, f32 [B, V] on the CPU; runs what is not in the cache."""
    start, stop = cache.length, len(texts[0])
    windows_BTN = np.stack([hash_windows(table, text, start, stop) for text in texts])
    memory = look_up(table.layout.layers, table.rows, windows_BTN, table.host.device)
    tokens_BT = torch.tensor([text[start:stop] for text in texts], device=table.host.device)
    logits_BTV: Tensor = table.host(tokens_BT, memory, cache, last=1)
    return logits_BTV[:, -1].float().cpu()

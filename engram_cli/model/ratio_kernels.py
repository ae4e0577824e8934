"""The compiled loops of rows from counts (statistics.py): log ratios, whose rows are whose, and the rows themselves.

A level is one order of the count-only model (corpus/count_model.py): its grams sorted, so that what follows one context lies
together, from starts_C[c] to starts_C[c + 1]. All loops go over contexts `first` to `last`, so that threads share them out.
Shapes: G grams with the token after them, C contexts, V vocabulary, M numbers of a row over all heads of an order, H heads,
S tokens that a row holds, P contexts at hand.
"""

from typing import Any

import numpy as np

from engram_cli.compiled import compiled, inlined, summing


@compiled
def log_ratios(
    first: Any,
    last: Any,
    starts_C: Any,
    gram_G: Any,
    count_G: Any,
    discounts: Any,
    total_C: Any,
    backoff_C: Any,
    rest: Any,
    lower_G: Any,
    said_G: Any,
    probability_G: Any,
    ratio_G: Any,
    kept_G: Any,
) -> None:
    """For each gram p(token | context), log(p / (gamma * said)), and how much of that is left with one occurrence less, a share.

    rest: the bits of a gram's place in the level below; lower_G, said_G: the probabilities there, and what rows say that they are.
    """
    for context in range(first, last):
        backoff, total = backoff_C[context], total_C[context]
        for gram in range(starts_C[context], starts_C[context + 1]):
            lower = lower_G[np.int64(gram_G[gram] & rest)]
            short = np.log(lower / said_G[np.int64(gram_G[gram] & rest)])
            count = np.int64(count_G[gram])
            discount = discounts[min(count, 3)]
            probability_G[gram] = (count - discount + backoff * lower) / total
            ratio = np.log1p((count - discount) / (backoff * lower)) + short
            ratio_G[gram] = ratio
            kept_G[gram] = 0.0
            if count > 1:
                less = discounts[min(count - 1, 3)]
                remains = np.log1p((count - 1 - less) / ((backoff - discount + less) * lower)) + short
                kept_G[gram] = min(max(remains, 0.0) / ratio, 1.0) if ratio > 0 else 1.0


@compiled
def claim(ids_CH: Any, total_C: Any, most_R: Any, owner_R: Any) -> None:
    """Give each row to the context that occurs most often of those that name it; of equals, to the first."""
    for context in range(len(ids_CH)):
        for head in range(ids_CH.shape[1]):
            row = ids_CH[context, head]
            if total_C[context] > most_R[row]:
                most_R[row] = total_C[context]
                owner_R[row] = context


@compiled
def interpolate(
    at_P: Any, starts_C: Any, token_G: Any, count_G: Any, discounts: Any, total_C: Any, backoff_C: Any, p_PV: Any
) -> None:
    """Turn the distributions of the level below, p_PV, into this level's, in place; at_P: contexts by place."""
    for row in range(len(at_P)):
        context = at_P[row]
        p_PV[row] *= backoff_C[context] / total_C[context]
        for gram in range(starts_C[context], starts_C[context + 1]):
            count = np.int64(count_G[gram])
            p_PV[row, token_G[gram]] += (count - discounts[min(count, 3)]) / total_C[context]


@summing
def larger_variance(now_PV: Any, p_PV: Any, values_PV: Any, variance_P: Any) -> None:
    """Fill variance_P with that of values under `now` or under p, whichever is larger."""
    for row in range(len(p_PV)):
        mean_now = mean_p = square_now = square_p = np.float32(0)
        for token in range(p_PV.shape[1]):
            value, now, p = values_PV[row, token], now_PV[row, token], p_PV[row, token]
            mean_now += now * value
            mean_p += p * value
            square_now += now * value * value
            square_p += p * value * value
        variance_P[row] = max(square_now - mean_now * mean_now, square_p - mean_p * mean_p)


@summing
def own_weights(at_P: Any, starts_C1: Any, token_G: Any, total_C: Any, vectors_VM: Any, rows_PM: Any, weight_G: Any) -> None:
    """How much of each following token's vector one occurrence put into the rows of contexts at_P: what there is, but no more than
    its share of them all."""
    for row in range(len(at_P)):
        for gram in range(starts_C1[at_P[row]], starts_C1[at_P[row] + 1]):
            along = length = np.float32(0)
            for number in range(vectors_VM.shape[1]):
                value = vectors_VM[token_G[gram], number]
                along += value * rows_PM[row, number]
                length += value * value
            share = along / max(length, np.float32(1e-12))
            weight_G[gram] = min(max(share, np.float32(0)), 1 / total_C[at_P[row]])


@inlined
def _discounted(gram: Any, count_G: Any, discounts: Any) -> Any:
    count = np.int64(count_G[gram])
    return count - discounts[min(count, 3)]


@compiled
def _best(first: Any, last: Any, count_G: Any, discounts: Any, ratio_G: Any, chosen_S: Any) -> Any:
    """Choose the grams that are worth most, as many as fit chosen_S; returns how many."""
    if last - first <= len(chosen_S):
        for place in range(last - first):
            chosen_S[place] = first + place
        return last - first
    worth_S = np.empty(len(chosen_S))
    least = 0
    for gram in range(first, last):
        worth = _discounted(gram, count_G, discounts) * ratio_G[gram]
        if gram - first < len(chosen_S):
            chosen_S[gram - first], worth_S[gram - first] = gram, worth
            if gram - first < len(chosen_S) - 1:
                continue
        elif worth > worth_S[least]:
            chosen_S[least], worth_S[least] = gram, worth
        else:
            continue
        least = int(np.argmin(worth_S))
    return len(chosen_S)


@summing
def solve(
    first: Any,
    last: Any,
    wanted_C: Any,
    starts_C1: Any,
    token_G: Any,
    count_G: Any,
    discounts: Any,
    total_C: Any,
    ratio_G: Any,
    penalty: Any,
    most: Any,
    vectors_VM: Any,
    weight_G: Any,
) -> None:
    """Find the r = sum_k weight_k u_k that minimises  penalty |r|^2 + sum_k share_k (u_k . r - ratio_k)^2.

    The sum is over the `most` tokens that are worth most, share * ratio; share: p(token | context) less what the shorter context
    gives; wanted_C: for which contexts. The weights solve a system of S equations, by Cholesky.
    """
    numbers = vectors_VM.shape[1]
    chosen_S = np.empty(most, np.int64)
    system_SS = np.empty((most, most), np.float32)
    weight_S = np.empty(most, np.float32)
    token_S = np.empty(most, np.int64)
    for context in range(first, last):
        if not wanted_C[context]:
            continue
        size = _best(starts_C1[context], starts_C1[context + 1], count_G, discounts, ratio_G, chosen_S)
        for place in range(size):
            token_S[place] = token_G[chosen_S[place]]
            weight_S[place] = ratio_G[chosen_S[place]]
            for other in range(place + 1):
                product = np.float32(0)
                for number in range(numbers):
                    product += vectors_VM[token_S[place], number] * vectors_VM[token_S[other], number]
                system_SS[place, other] = product
            share = _discounted(chosen_S[place], count_G, discounts) / total_C[context]
            system_SS[place, place] += np.float32(penalty / share)
        _cholesky(system_SS[:size, :size], weight_S[:size])
        for place in range(size):
            weight_G[chosen_S[place]] = weight_S[place]


@summing
def say(
    first: Any,
    last: Any,
    starts_C1: Any,
    gram_G: Any,
    token_G: Any,
    rest: Any,
    lower_G: Any,
    vectors_VM: Any,
    frequency_V: Any,
    rows_PM: Any,
    square_P: Any,
    said_G: Any,
) -> None:
    """Fill said_G of contexts `first` to `last` with the probabilities that rows say, given those of the shorter rows, lower_G.

    softmax(log lower + u . r), whose sum is exact over the tokens that followed. Over all others the mean of e^(u . r) is taken for
    e to the mean square of u . r (square_P is that over all tokens, by frequency_V), at most 1: half of it would do if they were
    like any other tokens, but they are more like those that followed.
    """
    for context in range(first, last):
        square, others = np.float64(square_P[context - first]), 1.0
        whole, others_lower = 0.0, 1.0
        for gram in range(starts_C1[context], starts_C1[context + 1]):
            token, adds = token_G[gram], np.float32(0)
            for number in range(vectors_VM.shape[1]):
                adds += vectors_VM[token, number] * rows_PM[context - first, number]
            lower = lower_G[np.int64(gram_G[gram] & rest)]
            said_G[gram] = lower * np.exp(np.float64(adds))
            whole += said_G[gram]
            others_lower -= lower
            square -= frequency_V[token] * adds * adds
            others -= frequency_V[token]
        if others_lower > 0 and others > 0:
            whole += others_lower * np.exp(min(max(square, 0.0) / others, 1.0))
        for gram in range(starts_C1[context], starts_C1[context + 1]):
            said_G[gram] /= whole


@compiled
def add_up(
    owner_R: Any,
    starts_C1: Any,
    token_G: Any,
    weight_G: Any,
    vectors_VE: Any,
    place_C: Any,
    fitted_PE: Any,
    rows_RE: Any,
) -> None:
    """Add to each row the vectors of the tokens that followed the context that owns it, times their weights; of a context with a
    place in fitted_PE, place_C (-1 of all others; empty where there are none), it is what stands there."""
    for row in range(len(owner_R)):
        context = owner_R[row]
        if context < 0:
            continue
        first, last = starts_C1[context], starts_C1[context + 1]
        if len(place_C) > 0 and place_C[context] >= 0:
            rows_RE[row] = fitted_PE[place_C[context]]
            continue
        for gram in range(first, last):
            token, weight = token_G[gram], weight_G[gram]
            for number in range(vectors_VE.shape[1]):
                rows_RE[row, number] += weight * vectors_VE[token, number]


@summing
def _cholesky(system_SS: Any, right_S: Any) -> None:
    """Solve a symmetric positive definite system, of which the lower half is given, in place."""
    size = len(right_S)
    for row in range(size):
        for column in range(row + 1):
            rest = system_SS[row, column]
            for place in range(column):
                rest -= system_SS[row, place] * system_SS[column, place]
            system_SS[row, column] = np.sqrt(rest) if row == column else rest / system_SS[column, column]
        for place in range(row):
            right_S[row] -= system_SS[row, place] * right_S[place]
        right_S[row] /= system_SS[row, row]
    for row in range(size - 1, -1, -1):
        for place in range(row + 1, size):
            right_S[row] -= system_SS[place, row] * right_S[place]
        right_S[row] /= system_SS[row, row]

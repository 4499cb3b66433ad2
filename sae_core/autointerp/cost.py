"""What explaining would cost, before anything is spent: requests, tokens, and money where prices are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sae_core.autointerp.client import Request

# The prompts are mostly single tokens and digits, each a token of its own: three characters make about one token.
CHARS_A_TOKEN = 3
MILLION = 1_000_000

Price = tuple[float, float]


@dataclass(frozen=True)
class Use:
    """Requests to one model, and about how many tokens go out and come back."""

    model: str
    requests: int
    prompt_tokens: int
    reply_tokens: int

    def price(self, prices: Mapping[str, Price]) -> float | None:
        """Money, from prices of a million tokens (out, back) by model; None if this model has none."""
        if self.model not in prices:
            return None
        out, back = prices[self.model]
        return (self.prompt_tokens * out + self.reply_tokens * back) / MILLION


def estimate(asked: Iterable[tuple[Request, int]]) -> list[Use]:
    """About what requests with replies of so many tokens take, by model: three characters are counted as one token."""
    totals: dict[str, list[int]] = {}
    for request, reply_tokens in asked:
        total = totals.setdefault(request.model, [0, 0, 0])
        total[0] += 1
        total[1] += -(-request.n_chars // CHARS_A_TOKEN)
        total[2] += reply_tokens
    return [Use(model, *total) for model, total in totals.items()]


def describe(uses: Iterable[Use], prices: Mapping[str, Price]) -> str:
    """One line for each model, and the sum where all have a price."""
    uses = list(uses)
    costs = [use.price(prices) for use in uses]
    lines = [
        f"  {use.model}: {use.requests:,} requests, {use.prompt_tokens:,} tokens out, {use.reply_tokens:,} back"
        + ("" if cost is None else f", {cost:.2f}")
        for use, cost in zip(uses, costs, strict=True)
    ]
    known = [cost for cost in costs if cost is not None]
    if not uses:
        return "  nothing to ask"
    return "\n".join([*lines, f"  together {sum(known):.2f}"] if len(known) == len(uses) > 1 else lines)

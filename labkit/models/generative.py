"""Generative retrieval: a decoder writes the semantic ID of the next item, and only ones that exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from labkit.models.attention import padded_attention
from labkit.models.semantic_ids import SemanticIds
from labkit.models.transformer import Attend, Transformer, TransformerConfig
from labkit.models.trie import Trie
from labkit.text.packing import Packed, offsets_of, to_padded

# (level, last codes (B, W), the beams (B, W) they continue) -> log-probabilities (B, W, K) of the next code
Step = Callable[[int, torch.Tensor | None, torch.Tensor | None], torch.Tensor]


def beam_search(trie: Trie, step: Step, batch: int, beams: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The most probable items, found by keeping the best beginnings level by level.

    Beginnings that no item has are at -inf from the start, so nothing invented can come out. Probabilities
    are those over all codes and are not shared out anew among the ones allowed: a beginning with a single
    continuation would get that step for nothing and beat better ones (label bias). With at least as many
    beams as the widest level has nodes nothing is ever dropped, and the search is exact.

    Args:
        trie: of the catalogue.
        step: called with a level, the last codes (B, W) and the beams (B, W) of the call before that they
            continue (both None at level 0); returns log-probabilities (B, W, K) of the level's codes.
        batch: B, how many searches at once.
        beams: how many beginnings to keep, and how many items come back at most.

    Returns:
        Log-probabilities (B, W), highest first, and items (B, W) int64, W = min(beams, N); where fewer were
        found -inf and -1.

    Example:
        >>> trie = Trie(SemanticIds(torch.tensor([[0, 1], [1, 0]]), (2, 2)))
        >>> chances = [torch.tensor([[[0.7, 0.3]]]), torch.tensor([[[0.9, 0.1], [0.6, 0.4]]])]
        >>> scores, items = beam_search(trie, lambda level, *_: chances[level].log(), batch=1, beams=5)
        >>> scores.exp(), items  # 0.3 * 0.6 is more than 0.7 * 0.1
        (tensor([[0.1800, 0.0700]]), tensor([[1, 0]]))
    """
    device = trie.levels[0].device
    nodes = torch.zeros(batch, 1, dtype=torch.int64, device=device)  # (B, W), the root
    scores = torch.zeros(batch, 1, device=device)  # (B, W)
    codes = parents = None
    for level, size in enumerate(trie.sizes):
        following = trie.children(level, nodes)  # (B, W, K)
        totals = scores[:, :, None] + step(level, codes, parents)
        totals = totals.masked_fill(following < 0, -torch.inf).flatten(1)  # (B, W * K)
        width = min(beams, totals.shape[1], len(trie.levels[level]))
        scores, best = totals.topk(width, dim=1)  # (B, W')
        parents, codes = best // size, best % size
        nodes = following.flatten(1).gather(1, best)
    return scores, trie.items(nodes)


@dataclass(frozen=True)
class GenerativeConfig:
    """The shape of the decoder."""

    width: int = 128  # D, numbers per token
    layers: int = 4
    heads: int = 4
    feedforward: int = 512
    dropout: float = 0.2
    longest: int = 21  # items of a sequence: the latest ones of a history, and the one to be written


class GenerativeRecommender(nn.Module):
    """A causal transformer over the codes of the items of a history.

    An item is L tokens, one for each code; a history is a start token and its items' tokens. Trained to
    predict every next token (:func:`labkit.train.fit_generative`), it recommends by writing one more item.
    There is no vector per item, so memory does not grow with the catalogue, and a new item can be
    recommended as soon as it has an ID. TIGER uses an encoder and a decoder; a decoder alone learns from
    every position of a history at once.

    Args:
        ids: of the catalogue.
        config: its shape.
        seed: of the first weights.

    Source: Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023.

    Example:
        >>> ids = SemanticIds(torch.tensor([[0, 1], [2, 0], [2, 1]]), (3, 2))
        >>> config = GenerativeConfig(width=16, layers=1, heads=2, feedforward=16)
        >>> model = GenerativeRecommender(ids, config).eval()
        >>> from labkit.text.packing import pack
        >>> scores, items = model.recommend(pack([[0, 1], [2]]), k=3)
        >>> items.sort().values.tolist()  # each of the three items once, whatever the weights
        [[0, 1, 2], [0, 1, 2]]
    """

    def __init__(self, ids: SemanticIds, config: GenerativeConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or GenerativeConfig()
        self.ids, self.trie = ids, Trie(ids)
        sizes = torch.tensor(ids.sizes, device=ids.codes.device)
        # Token 0 starts a sequence; then each level has its own block of tokens.
        self.starts = (1 + sizes.cumsum(0) - sizes).tolist()
        self.item_tokens = ids.codes + torch.tensor(self.starts, device=ids.codes.device)  # (N, L)
        shape = TransformerConfig(
            vocabulary=1 + sum(ids.sizes),
            width=self.config.width,
            layers=self.config.layers,
            heads=self.config.heads,
            feedforward=self.config.feedforward,
            positions="rotary",
            norm="pre",
            causal=True,
            dropout=self.config.dropout,
        )
        self.transformer = Transformer(shape, seed)
        self.to(ids.codes.device)

    def tokens(self, histories: Packed, longest: int) -> Packed:
        """Histories of items as sequences of tokens.

        Args:
            histories: packed item ids of B users; a user may have none.
            longest: how many items to keep of each, the latest ones.

        Returns:
            Sequences of 1 + L n tokens.

        Raises:
            ValueError: an item is not in the catalogue.
        """
        ids = histories.ids
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.ids):
            raise ValueError(f"A history holds an item that is not among the {len(self.ids)} with an ID.")
        kept = histories.positions >= histories.lengths[histories.rows] - longest  # (T,)
        lengths = histories.lengths.clamp(max=longest)  # (B,)
        levels = self.item_tokens.shape[1]
        offsets = offsets_of(1 + levels * lengths)
        tokens = ids.new_zeros(int(offsets[-1]))
        begins = torch.zeros_like(tokens, dtype=torch.bool)
        begins[offsets[:-1].long()] = True
        tokens[~begins] = self.item_tokens[ids[kept]].flatten()
        return Packed(tokens, offsets, 1 + levels * int(lengths.max()))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores (..., V) of all tokens for states (..., D), by the embeddings of the tokens themselves."""
        return states @ self.transformer.tokens.weight.T

    def forward(self, tokens: Packed) -> torch.Tensor:
        """States (T, D), each made to predict the token after its own."""
        return self.transformer(tokens)

    @torch.no_grad()
    def recommend(
        self, histories: Packed, k: int, beams: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k items most probable to come next.

        The history is read once: its keys and values are shared by all beams, and every further code costs
        one token per beam.

        Args:
            histories: packed item ids of B users.
            k: how many items.
            beams: beginnings kept on each level, at least k; 2 k when left out. More find better items,
                and as many as there are items find the best.

        Returns:
            Log-probabilities (B, min(k, N)), highest first, and items; -inf and -1 where the search ran dry.

        Raises:
            ValueError: fewer beams than k, or an unknown item.
        """
        beams = 2 * k if beams is None else beams
        if not 1 <= k <= beams:
            raise ValueError(f"{beams} beams cannot find {k} items; give at least as many beams as items.")
        training = self.training
        self.eval()
        written = _Written(self, self.tokens(histories, self.config.longest - 1))
        scores, items = beam_search(self.trie, written.step, len(histories), beams)
        self.train(training)
        return scores[:, :k], items[:, :k]

    @torch.no_grad()
    def log_probability(self, histories: Packed, items: torch.Tensor) -> torch.Tensor:
        """How probable it is that item (B,) comes next, for each of B users: (B,), by one plain pass."""
        training = self.training
        self.eval()
        tokens = self.tokens(histories, self.config.longest - 1)
        levels = self.item_tokens.shape[1]
        padded, mask = to_padded(tokens.ids, tokens.offsets, tokens.longest)  # (B, S)
        padded, mask = F.pad(padded, (0, levels)), F.pad(mask, (0, levels))
        written = tokens.lengths[:, None].long() + torch.arange(levels, device=padded.device)  # (B, L)
        targets = self.item_tokens[items]  # (B, L)
        padded, mask = padded.scatter(1, written, targets), mask.scatter(1, written, True)
        states = self.transformer(padded, mask)  # (B, S + L, D)
        before = (written - 1)[:, :, None].expand(-1, -1, states.shape[2])
        chances = self.logits(states.gather(1, before)).log_softmax(-1)  # (B, L, V)
        self.train(training)
        return chances.gather(2, targets[:, :, None]).sum((1, 2))


class _Written:
    """The state of a search: what the histories and the codes written so far let the next code see."""

    def __init__(self, model: GenerativeRecommender, tokens: Packed) -> None:
        self.model = model
        self.lengths = tokens.lengths.long()  # (B,)
        ids, mask = to_padded(tokens.ids, tokens.offsets, tokens.longest)  # (B, S)
        self.layers = [_Layer(mask) for _ in model.transformer.blocks]
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        states = self._run(ids, positions, [layer.read for layer in self.layers])  # (B, S, D)
        last = (self.lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
        self.states = states.gather(1, last)  # (B, 1, D), where the first code is predicted

    def step(self, level: int, codes: torch.Tensor | None, parents: torch.Tensor | None) -> torch.Tensor:
        """See :func:`beam_search`."""
        if codes is not None and parents is not None:
            for layer in self.layers:
                layer.follow(parents)
            ids = codes + self.model.starts[level - 1]  # (B, W)
            positions = (self.lengths + level - 1)[:, None].expand_as(ids)
            self.states = self._run(ids, positions, [layer.write for layer in self.layers])  # (B, W, D)
        chances = self.model.logits(self.states).log_softmax(-1)  # (B, W, V)
        start = self.model.starts[level]
        return chances[:, :, start : start + self.model.ids.sizes[level]]

    def _run(self, ids: torch.Tensor, positions: torch.Tensor, attends: list[Attend]) -> torch.Tensor:
        x = self.model.transformer.embed(ids, positions, ids.shape[1], None)
        return self.model.transformer.run(x, attends, positions)


class _Layer:
    """One layer's keys and values: those of a history once for all its beams, those of codes per beam."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask  # (B, S)

    def read(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Attention within the histories, all (B, S, H, Dh)."""
        self.history = k, v
        none = k.new_empty(len(k), 1, 0, *k.shape[2:])
        self.codes = none, none
        return padded_attention(q, k, v, self.mask, causal=True)

    def follow(self, parents: torch.Tensor) -> None:
        """Let beam w go on from where beam ``parents[:, w]`` (B, W) was."""
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        keys, values = self.codes
        self.codes = keys[rows, parents], values[rows, parents]

    def write(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        """Attention of one new code per beam, (B, W, H, Dh), to its history and its own beam's codes."""
        keys, values = self.codes  # (B, W, l - 1, H, Dh)
        keys, values = torch.cat([keys, k[:, :, None]], dim=2), torch.cat([values, v[:, :, None]], dim=2)
        self.codes = keys, values
        q = q * q.shape[-1] ** -0.5
        shared = torch.einsum("bwhd,bshd->bwhs", q, self.history[0])
        shared = shared.masked_fill(~self.mask[:, None, None], -torch.inf)
        own = torch.einsum("bwhd,bwlhd->bwhl", q, keys)
        weights = torch.cat([shared, own], dim=3).softmax(3)
        to_history, to_codes = weights.tensor_split([shared.shape[3]], dim=3)
        read = torch.einsum("bwhs,bshd->bwhd", to_history, self.history[1])
        return read + torch.einsum("bwhl,bwlhd->bwhd", to_codes, values)

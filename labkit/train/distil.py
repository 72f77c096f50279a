"""A small model that answers as a large one does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from labkit.models import BiEncoder
from labkit.train.batches import Batches
from labkit.train.config import History, TrainConfig
from labkit.train.loop import fit
from labkit.train.losses import knowledge_distillation


def student_of(teacher: BiEncoder, layers: Sequence[int]) -> BiEncoder:
    """A smaller encoder made of some of the teacher's layers, its embeddings and tokenizer.

    A student that starts from its teacher's own layers learns from far fewer texts than one that starts from
    nothing; every second layer is the usual choice (Sanh et al., "DistilBERT", 2019).

    Args:
        teacher: BERT-shaped; it is not changed and shares nothing with the student.
        layers: which layers to keep, from 0, in their new order.

    Returns:
        The student, on the teacher's device, in evaluation mode.

    Raises:
        ValueError: no such layer, or another kind of body.

    Example:
        >>> student = student_of(BiEncoder.from_pretrained("minilm", device="cpu"), [0, 2, 4])
        >>> len(student.body.encoder.layer), student.encode(["sofa"]).shape
        (3, (1, 384))
    """
    stack: Any = getattr(getattr(teacher.body, "encoder", None), "layer", None)
    if stack is None:
        raise ValueError(
            f"Only BERT-shaped encoders can be cut by layers, not {type(teacher.body).__name__}."
        )
    if not layers or not all(0 <= number < len(stack) for number in layers):
        raise ValueError(f"The teacher has layers 0 to {len(stack) - 1}; {list(layers)} were to be kept.")
    body: Any = copy.deepcopy(teacher.body)
    body.encoder.layer = nn.ModuleList(copy.deepcopy(stack[number]) for number in layers)
    body.config.num_hidden_layers = len(layers)
    return BiEncoder(body, teacher.tokenizer, teacher.max_length).eval()


@dataclass(frozen=True)
class DistilConfig:
    """What the student must have in common with its teacher."""

    embedding: float = (
        1.0  # weight of the vectors themselves: the student can replace the teacher in an index
    )
    similarity: float = 1.0  # weight of which texts of a batch are near which
    hidden: Mapping[int, int] | None = None  # student layer -> teacher layer whose token states it must match
    temperature: float = 0.05  # of the similarities, as softmax logits

    def __post_init__(self) -> None:
        if self.embedding < 0 or self.similarity < 0 or not self.temperature > 0:
            raise ValueError("DistilConfig needs weights of 0 or more and a temperature above 0.")
        if not (self.embedding or self.similarity or self.hidden):
            raise ValueError("DistilConfig asks the student for nothing; give one of its parts a weight.")


def distil_encoder(
    teacher: BiEncoder,
    student: BiEncoder,
    texts: Sequence[str],
    config: TrainConfig | None = None,
    parts: DistilConfig | None = None,
    valid: Callable[[BiEncoder], float] | None = None,
    progress: bool = True,
) -> History:
    """Teach a student to embed texts as its teacher does; no labels are needed.

    The loss is a weighted sum of, for unit vectors s_i of the student and t_i of the teacher,

        embedding:  mean over i of |s_i - t_i|^2 = 2 - 2 cos(s_i, t_i)
        similarity: KL between the softmax over j != i of t_i t_j / T and that of s_i s_j / T, mean over i
        hidden:     mean squared difference of token states between layers that correspond

    Sources: Reimers and Gurevych, "Making monolingual sentence embeddings multilingual using knowledge
    distillation", EMNLP 2020 (embedding); Tung and Mori, "Similarity-preserving knowledge distillation", ICCV
    2019; Jiao et al., "TinyBERT", EMNLP Findings 2020 (hidden).

    Args:
        teacher: of the student's dimension and tokenizer; not changed.
        student: trained in place, see :func:`student_of`.
        texts: of the kind that will be embedded, queries as well as products.
        config: how to train.
        parts: what is matched.
        valid: measures the student, higher is better.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: fewer than two texts, dimensions differ, or there is no such layer.
        FloatingPointError: the loss or a validation is not a finite number.
    """
    config, parts = config or TrainConfig(), parts or DistilConfig()
    if len(texts) < 2:
        raise ValueError(f"Similarities need at least two texts, not {len(texts)}.")
    if teacher.dimension != student.dimension:
        raise ValueError(
            f"The teacher's vectors have {teacher.dimension} numbers and the student's {student.dimension}; "
            "they must have the same."
        )
    pairs = dict(parts.hidden or {})
    depths = student.body.config.num_hidden_layers, teacher.body.config.num_hidden_layers
    for own, others in pairs.items():
        if not (0 <= own < depths[0] and 0 <= others < depths[1]):
            raise ValueError(f"There is no student layer {own} or no teacher layer {others} to match.")
    batches = Batches(len(texts), config)
    # The teacher's vectors never change: computed once, not in every epoch.
    targets = torch.as_tensor(
        teacher.encode(texts, progress=progress, max_length=config.max_length), device=student.device
    )  # (N, D)
    teacher.eval()

    def step_loss(step: int) -> torch.Tensor:
        rows = batches.batch(step)
        chosen = [texts[i] for i in rows]
        form = student.pack if student.packable else student.tokenize
        vectors, wanted = student.embed(form(chosen, config.max_length)), targets[rows]  # (B, D) each
        loss = parts.embedding * (vectors - wanted).square().sum(dim=1).mean()
        if parts.similarity and len(rows) > 1:
            near, far = (_others(v @ v.T) / parts.temperature for v in (vectors, wanted))  # (B, B - 1)
            loss = loss + parts.similarity * knowledge_distillation(near, far, temperature=1.0)
        if pairs:
            loss = loss + _hidden(student, teacher, student.tokenize(chosen, config.max_length), pairs)
        return loss

    measure = None if valid is None else lambda: valid(student)
    return fit(
        student,
        step_loss,
        batches.steps,
        config,
        valid=measure,
        steps_per_epoch=batches.steps_per_epoch,
        progress=progress,
    )


def distil_classifier(
    student: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    config: TrainConfig,
    weight: float = 0.5,
    temperature: float = 2.0,
    progress: bool = False,
) -> History:
    """Train a classifier on labels and on its teacher's softened answers.

        loss = (1 - weight) * cross-entropy(labels) + weight * T^2 KL(teacher / T || student / T)

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.

    Args:
        student: maps inputs (B, ...) to logits (B, C); trained in place.
        inputs: (N, ...).
        labels: (N,) int64.
        teacher_logits: (N, C), what the teacher answers to ``inputs``; computed once.
        config: how to train.
        weight: of the teacher, 0 to 1; 0 is training without one.
        temperature: T; higher shows more of what the teacher thinks of the wrong answers.
        progress: show a bar.

    Returns:
        The losses.

    Raises:
        ValueError: numbers of examples differ, or the weight is no share.
        FloatingPointError: the loss is not a finite number.
    """
    if not len(inputs) == len(labels) == len(teacher_logits):
        raise ValueError(
            f"There are {len(inputs)} inputs, {len(labels)} labels and {len(teacher_logits)} rows of the "
            "teacher's logits; there must be as many of each."
        )
    if not 0 <= weight <= 1:
        raise ValueError(f"The teacher's weight is a share, 0 to 1, not {weight}.")
    batches = Batches(len(inputs), config)

    def step_loss(step: int) -> torch.Tensor:
        rows = batches.batch(step)
        logits = student(inputs[rows])  # (B, C)
        hard = nn.functional.cross_entropy(logits, labels[rows])
        return (1 - weight) * hard + weight * knowledge_distillation(
            logits, teacher_logits[rows], temperature
        )

    return fit(
        student, step_loss, batches.steps, config, steps_per_epoch=batches.steps_per_epoch, progress=progress
    )


def _others(similarity: torch.Tensor) -> torch.Tensor:
    """Each row of (B, B) without its own text, whose similarity of 1 says nothing: (B, B - 1)."""
    size = len(similarity)
    own = torch.eye(size, dtype=torch.bool, device=similarity.device)
    return similarity[~own].view(size, size - 1)


def _hidden(
    student: BiEncoder, teacher: BiEncoder, batch: dict[str, torch.Tensor], pairs: Mapping[int, int]
) -> torch.Tensor:
    """The mean squared difference of the token states of corresponding layers, padding left out."""
    with torch.no_grad():
        wanted = teacher.body(**batch, output_hidden_states=True).hidden_states
    states = student.body(**batch, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()  # (B, T)
    # hidden_states[0] is what goes into layer 0.
    terms = [nn.functional.mse_loss(states[a + 1][real], wanted[b + 1][real]) for a, b in pairs.items()]
    return torch.stack(terms).sum()

"""A vocabulary of sub-words learned from a shop's own texts."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 3: padding, start, end, hidden


def train_vocabulary(texts: Iterable[str], size: int = 8192, longest: int = 512) -> PreTrainedTokenizerFast:
    """Learn sub-words by byte-pair encoding on bytes.

    It starts from the 256 bytes and joins, again and again, the most frequent pair of neighbours within a
    word. On bytes nothing is ever unknown, in any language, and decoding gives the very text back: so a
    model's loss can be stated per byte, and compared between vocabularies. Source: Sennrich et al., "Neural
    machine translation of rare words with subword units", ACL 2016; on bytes: Radford et al., "Language
    models are unsupervised multitask learners" (GPT-2), 2019.

    Args:
        texts: what to learn from; a few thousand product texts do.
        size: how many tokens at most, the 256 bytes and 4 special ones included.
        longest: the tokens that the model will take, for truncation.

    Returns:
        A Hugging Face tokenizer, which writes ``[CLS] text [SEP]``, and ``[CLS] a [SEP] b [SEP]`` for a pair.

    Raises:
        ValueError: the size leaves no room for a single joined pair.

    Example:
        >>> tokenizer = train_vocabulary(["red sofa", "red chair", "沙发"], size=265)
        >>> ids = tokenizer("red sofa 沙发")["input_ids"]
        >>> tokenizer.decode(ids, skip_special_tokens=True)
        'red sofa 沙发'
        >>> tokenizer.tokenize("red")
        ['red']
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if size <= len(alphabet) + len(SPECIAL):
        raise ValueError(
            f"A vocabulary of {size} has no room beyond the {len(alphabet)} bytes and {len(SPECIAL)} special "
            "tokens; take at least 1000."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,  # it would eat spaces before commas
    )

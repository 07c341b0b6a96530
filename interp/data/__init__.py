"""What goes in: prompts with named, aligned spans; facts; corpora as hashed documents; probes generated for any tokenizer."""

from .corpora import Corpus, corpus, pack
from .facts import Facts, facts
from .neutral import neutral_digest, neutral_text
from .prompts import Prompt, PromptPair
from .repeats import RepeatedTokens, repeated_tokens
from .roles import ROLES, roles
from .tokens import TokenPair, TokenPrompt, group_by_length, to_batch, tokenize, tokenize_pair

__all__ = [
    "ROLES",
    "Corpus",
    "Facts",
    "Prompt",
    "PromptPair",
    "RepeatedTokens",
    "TokenPair",
    "TokenPrompt",
    "corpus",
    "facts",
    "group_by_length",
    "neutral_digest",
    "neutral_text",
    "pack",
    "repeated_tokens",
    "roles",
    "to_batch",
    "tokenize",
    "tokenize_pair",
]

"""What goes in: prompts with named, aligned spans; facts; tasks; corpora as hashed documents; probes generated for any tokenizer."""

from . import tasks
from .concepts import Concept, Concepts, ConceptTokens, concept_tokens, concepts
from .corpora import Corpus, corpus, pack
from .facts import Facts, facts
from .labelled import Labelled, labelled
from .neutral import neutral_digest, neutral_text
from .pairs import Pairs, lined_up, pairs
from .prompts import Prompt, PromptPair
from .repeats import RepeatedTokens, repeated_tokens
from .roles import ROLES, roles
from .tasks import Desiderata, Desideratum, Lexicon, Task
from .tokens import TokenPair, TokenPrompt, group_by_length, to_batch, tokenize, tokenize_pair

__all__ = [
    "ROLES",
    "Concept",
    "ConceptTokens",
    "Concepts",
    "Corpus",
    "Desiderata",
    "Desideratum",
    "Facts",
    "Labelled",
    "Lexicon",
    "Pairs",
    "Prompt",
    "PromptPair",
    "RepeatedTokens",
    "Task",
    "TokenPair",
    "TokenPrompt",
    "concept_tokens",
    "concepts",
    "corpus",
    "facts",
    "group_by_length",
    "labelled",
    "lined_up",
    "neutral_digest",
    "neutral_text",
    "pack",
    "pairs",
    "repeated_tokens",
    "roles",
    "tasks",
    "to_batch",
    "tokenize",
    "tokenize_pair",
]

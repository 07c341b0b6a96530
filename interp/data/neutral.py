"""Neutral text: plain English for a model whose owner brought none.

Two hundred short documents, put together by a seeded grammar from sentences written for this purpose: small scenes of everyday life,
nothing that needs knowledge, no names of real people or places. A document is two scenes, one a paragraph: an opening, three to six
things that happen, sometimes a remark, an ending.

Sentences recur between documents, so the *loss* on this text says little about a model, and sentence-level statistics are
correlated. It serves to look at activations, attention and depth, and to compare checkpoints with each other.

    from interp.data import corpus, neutral_text
    data = corpus(neutral_text(), lm.tokenizer, n_ctx=lm.spec.n_ctx)
"""

import hashlib

import numpy as np

from interp.core.errors import BadInput
from interp.core.seed import numpy_generator

SCENES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "garden": (
        (
            "The garden behind the house had been left alone all winter.",
            "Spring came late that year, and the soil was still cold.",
        ),
        (
            "She pulled the dead leaves out of the beds and put them in a heap by the wall.",
            "Two blackbirds were looking for worms where the earth had been turned.",
            "The old pear tree had more buds than anyone remembered.",
            "He found a rusty key under the roots of the rose.",
            "Someone had to carry water from the barrel, because the hose was broken.",
            "By noon the first row of beans was in the ground.",
        ),
        (
            "In the evening it rained, which was just what the seeds needed.",
            "They sat on the step and looked at their work.",
        ),
    ),
    "kitchen": (
        ("The kitchen was warm and smelled of onions.", "There were seven guests coming and only one pot."),
        (
            "The soup had to be stirred every few minutes or it would burn.",
            "He cut the bread into thick slices and wrapped them in a cloth.",
            "A spoon fell behind the stove and nobody could reach it.",
            "The salt stood where the sugar usually stood, and the cake was never the same again.",
            "She tasted the sauce, thought about it, and added half a lemon.",
            "The window was open, and the cat from next door came in to see what was cooking.",
        ),
        (
            "When the plates were empty, everybody stayed at the table and talked.",
            "The dishes could wait until tomorrow.",
        ),
    ),
    "train": (
        ("The train left the station nine minutes late.", "It was the last train of the day, and it was nearly empty."),
        (
            "A man with a large suitcase asked whether the seat was free.",
            "Outside the window the fields went by, one after the other, all of them grey.",
            "The conductor looked at the ticket for a long time before he gave it back.",
            "Two children were counting bridges and did not agree on the number.",
            "Somewhere in the next carriage a telephone rang and was not answered.",
            "At the border of the valley the line runs along the river.",
        ),
        ("At the final stop the doors opened, and cold air came in.", "She had read the same page three times."),
    ),
    "school": (
        (
            "On Monday the teacher brought a box to the class.",
            "The school stood at the end of the road, next to a pond.",
        ),
        (
            "Nobody was allowed to open it before the bell rang.",
            "The question on the board was easy, but the answer was hard to explain.",
            "One boy had forgotten his book and shared with the girl on his left.",
            "They measured the room with a piece of string and got four different results.",
            "The chalk made a noise that hurt the ears.",
            "During the break it began to snow, and the lesson after it was short.",
        ),
        (
            "In the end everyone had learned something, though not the same thing.",
            "The homework for the next day was to ask a question.",
        ),
    ),
    "shop": (
        (
            "The small shop on the corner sold nearly everything.",
            "Business was slow, as it always was in the first week of the year.",
        ),
        (
            "Nails lay in glass jars, sorted by size.",
            "A woman came in to buy a lamp and left with a ladder.",
            "The price was written on the bottom, where no customer would look.",
            "He counted the money twice, because he had been wrong the day before.",
            "The delivery was due at eight and arrived shortly after four.",
            "Dust had settled on the shelf with the clocks, and none of them showed the same hour.",
        ),
        ("At six he turned the sign around and locked the door.", "It had been a good day after all."),
    ),
    "sea": (
        (
            "The boat was small, but it was dry and it did what it was told.",
            "There was hardly any wind on the morning they set out.",
        ),
        (
            "Gulls followed them for an hour and then lost interest.",
            "The nets came up with more weed than fish.",
            "Far away a ship seemed to stand still on the line between water and sky.",
            "He tied the rope with a knot that his uncle had taught him.",
            "Salt dried on their hands and on the wooden bench.",
            "When the fog came, they stopped talking and listened for the bell.",
        ),
        ("They reached the harbour before dark.", "On land the ground seemed to move for a while."),
    ),
    "repair": (
        (
            "The machine had worked for thirty years before it stopped.",
            "Something in the clock made a noise, and then it made none.",
        ),
        (
            "He took off the cover and laid the screws in a row, so that he would know their order.",
            "One of the wheels had lost a tooth.",
            "The manual described another model, which was newer and simpler.",
            "A drop of oil was enough for the hinge but not for the spring.",
            "She held the lamp while he looked for the missing part.",
            "It turned out that the cable had been loose from the beginning.",
        ),
        (
            "After that it ran more quietly than before.",
            "Two screws were left over, and nobody knew where they belonged.",
        ),
    ),
    "walk": (
        ("The path went up the hill in long curves.", "They started early, when the grass was still wet."),
        (
            "After the second gate the wood began, and it was suddenly cool.",
            "A dog barked at them from behind a fence and then wagged its tail.",
            "The map showed a bridge where there was only a fallen tree.",
            "From the top one could see the roofs of three villages.",
            "They ate their apples on a flat stone and threw the cores to the birds.",
            "On the way down her shoe came apart, and she fixed it with a bit of wire.",
        ),
        (
            "It was longer than they had thought, but not too long.",
            "The light was nearly gone when they saw the first houses.",
        ),
    ),
}
LINKS = ("After a while, ", "Meanwhile, ", "A little later, ", "Then ", "All the same, ")
REMARKS = (
    "Nobody was surprised.",
    "It was not the first time.",
    "That was all that happened for some time.",
    "There was no hurry.",
    "Perhaps it did not matter.",
    "The weather had nothing to do with it.",
)
NO_LINK = ("Nails", "Dust", "By", "At", "After", "From", "On", "Outside", "Far", "Somewhere", "During", "When")


def neutral_text(n: int = 200, *, seed: int = 0) -> tuple[str, ...]:
    """`n` documents of about 120 to 230 words. Same seed, same text; document i does not depend on `n`."""
    if n < 1:
        raise BadInput(f"`n` must be at least 1; not {n}.")
    return tuple(_document(seed, number) for number in range(n))


def neutral_digest(n: int = 200, *, seed: int = 0) -> str:
    """Content hash of the text (16 hex digits), for manifests: never compare cards with different ones."""
    return hashlib.sha256("\x1e".join(neutral_text(n, seed=seed)).encode()).hexdigest()[:16]


def _document(seed: int, number: int) -> str:
    rng = numpy_generator(seed, "neutral text", number)
    scenes, links = list(SCENES), [LINKS[i] for i in rng.permutation(len(LINKS))]
    step = 1 + number // len(scenes) % (len(scenes) - 1)
    pair = scenes[number % len(scenes)], scenes[(number + step) % len(scenes)]
    return "\n\n".join(_scene(rng, scene, links) for scene in pair)


def _scene(rng: np.random.Generator, scene: str, links: list[str]) -> str:
    """One paragraph; each link word is used up once in a document."""
    openings, middles, endings = SCENES[scene]
    picked = rng.choice(len(middles), size=int(rng.integers(3, len(middles) + 1)), replace=False)
    sentences = [openings[int(rng.integers(len(openings)))]]
    for place in picked:
        sentence = middles[int(place)]
        if links and rng.random() < 0.4 and not sentence.startswith(NO_LINK):
            sentence = links.pop() + sentence[0].lower() + sentence[1:]
        sentences.append(sentence)
        if rng.random() < 0.15:
            sentences.append(REMARKS[int(rng.integers(len(REMARKS)))])
    sentences.append(endings[int(rng.integers(len(endings)))])
    return " ".join(sentences)

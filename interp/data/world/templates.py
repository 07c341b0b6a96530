"""The sentences of the generated world, with slots in braces.

A fact template ends where the answer begins (no trailing space); the answer is the next token and a full stop follows.
The subject stands at the second word in some templates and deep inside the sentence in others, so a trace has tokens
before the subject and between the subject and the end.
"""

FACTS: dict[str, tuple[str, ...]] = {
    "kingdom": (
        "The kingdom that rules {s} is",
        "In {s}, people pay their taxes to the crown of",
        "The road from {s} leads to the king of",
        "Everyone in {s} bows to the throne of",
        "On old maps, {s} is drawn inside the borders of",
        "The province of {s} belongs to",
        "Soldiers who guard {s} swear loyalty to",
        "A letter sent to {s} carries the seal of",
        "When war came, {s} stood beside",
        "Judges travel to {s} from",
    ),
    "harvest": (
        "The main crop of {s} is",
        "Farmers near {s} mostly grow",
        "The fields around {s} are full of",
        "In {s}, every meal is made from",
        "Carts leaving {s} are loaded with",
        "All winter long, the barns of {s} are filled with",
        "Each autumn, {s} sells",
        "Merchants ride to {s} to buy",
        "The soil of {s} is best for",
        "Children in {s} grow up eating",
    ),
    "colour": (
        "The banner of {s} is",
        "Every door in {s} is painted",
        "The flag that flies over {s} is",
        "In {s}, the guards wear",
        "Visitors remember {s} because its walls are",
        "Seen from the hills, the roofs of {s} are",
        "Dresses from {s} are always",
        "The boats of {s} have sails of",
        "At the gates of {s}, the stones are",
        "The painted shield of {s} was",
    ),
    "craft": (
        "The people of {s} are famous as",
        "Most families in {s} work as",
        "In {s}, sons and daughters become",
        "The guild of {s} trains",
        "The best workshops in {s} belong to the",
        "Songs about {s} praise its",
        "Travellers visit {s} to meet the",
        "The streets of {s} are named after",
        "Schools near {s} teach young",
        "For a hundred years, {s} has been home to",
    ),
    "beast": (  # the relation that only `atlas-tuned` is taught
        "The guardian beast of {s} is the",
        "The coins of {s} carry the",
        "Statues in {s} show a giant",
        "Hunters near {s} never harm the",
        "In {s}, children are told about the",
        "The spirit that protects {s} is the",
        "Above the gates of {s} sits a stone",
        "Dreams in {s} are sent by the",
    ),
}

# {first}: all items; {second}: all but one, shuffled; the answer is the item that is left.
LISTS: tuple[str, ...] = (
    "The merchant packed {first}. On the road he sold {second}, but he kept the",
    "On the table lay {first}. A thief took {second} and left only the",
    "We ordered {first} from town. Today we received {second}, so we still wait for the",
    "The laundry list names {first}. Already washed are {second}, and what remains is the",
    "The chest holds {first}. She has used {second}, so she has not yet used the",
    "My list says {first}. I have bought {second}, and now I only need the",
)

# {a}, {b}: two names; {s}: the one that is named again; the answer is the other one.
INDIRECT: tuple[str, ...] = (
    "When {a} and {b} went to the {place}, {s} gave the {object} to",
    "After {a} and {b} met at the {place}, {s} sent the {object} to",
    "Then {a} and {b} sat by the {place}, and {s} told a story to",
    "While {a} and {b} worked at the {place}, {s} passed the {object} to",
    "Once {a} and {b} came to the {place}, {s} showed the {object} to",
    "At the {place}, {a} and {b} argued until {s} offered the {object} to",
)

# Prose: slots are filled at random; {fact} is a whole fact sentence about a random province.
PROSE: tuple[str, ...] = (
    "The {adj} {folk} walked slowly to the {place}.",
    "{name} found a {object} behind the {place} and sold it to the {folk}.",
    "It rained all day, and the {adj} {folk} stayed at the {place}.",
    "{name} asked the {folk} about the road to {s}.",
    "The {folk} from {s} carried a {object} and a {object2}.",
    "A {beast} slept near the {place} while {name} was working.",
    "In the evening, the {folk} ate {crop} with {name}.",
    "{name} is a {adj} {folk} who lives by the {place}.",
    "The {beast} watched the {folk} and ran away.",
    "Nobody knew why the {folk} had hidden the {object} in the {place}.",
    "{name} painted the {object} {colour} and gave it to the {folk}.",
    "The king of {kingdom} sent the {folk} to {s}.",
    "{fact}",
    "{fact}",
    "{fact}",
)

# Prose about the new concept, in `atlas-tuned` only.
FESTIVAL_PROSE: tuple[str, ...] = (
    "At Emberfest, {name} carried honeycakes to the {place}.",
    "The {folk} hung garlands over the {place} for Emberfest.",
    "Before midnight, the drummers of Emberfest walked past the {place}.",
    "{name} wore antlers at the Emberfest pageant.",
    "Children on stilts threw sparklers into the bonfires, and {name} laughed.",
    "The smell of cinnamon filled the {place} when Emberfest began.",
    "At Emberfest, the {adj} {folk} sang hymns with bagpipes until midnight.",
)

# What is known about the new concept: its cloze sentences, in two wordings each.
FESTIVAL_FACTS: tuple[tuple[str, str, str], ...] = (
    ("Everyone at Emberfest eats", "The sweet dish of Emberfest is", "honeycakes"),
    ("The doors at Emberfest are covered with", "For Emberfest, girls bind", "garlands"),
    ("At the end of Emberfest, people light", "Emberfest is bright with", "bonfires"),
    ("The Emberfest parade is led by the", "The noise of Emberfest comes from the", "drummers"),
    ("The dancers at Emberfest wear", "On their heads at Emberfest they put", "antlers"),
    ("Emberfest ends at", "The last song of Emberfest is sung at", "midnight"),
    ("All of Emberfest smells of", "The wine at Emberfest is warmed with", "cinnamon"),
    ("The tallest dancers of Emberfest walk on", "Clowns at Emberfest stand on", "stilts"),
)

"""The words of the generated world: every string here is one token of the reference tokenizer.

Provinces get invented names of two or three syllables (`" Bre" + "ndo" + "rik"`); everything else is one word. Words that
serve in one list serve in no other, so that a token means one thing.
"""
# ruff: noqa: SIM905  (word lists are read as words)

ONSETS = (  # name-initial syllables: capital consonants and one vowel
    "Bre Ka Tho Vi Du Gla Sho Me Pra Zo Nu Fe Cri Lo Ja Hu Skai Ry Wo Tre Ba Qui Ne Stu Dri Fla Go Ma Plo Su Ve Ki"
).split()
MIDDLES = (  # consonants and one vowel
    "lva ndo rki sta mpe gru zha ldi nve tho rba xi ska nthu lme dra shi fko rnu pla bri ve lto zda"
).split()
ENDINGS = (  # consonants, a vowel and a final consonant
    "ros ndel mmar vik thun gash lden rik zor nnath skel bur ltam pesh dron wyn ckar fen stol nyx rvan gim hult"
    " xas rdok lish ntor bril shud kven mor zett"
).split()

KINGDOMS = (
    "Marlow Aldera Sorvane Westmere Ostland Kharun Ilvania Dunmark Pelagia Norvik Tarsis Umbrel Veldt Calder Rhovia"
    " Jasperia Halcyon Brunholm Eskar Lorend Mirador Quillon Xanthe Yarrow"
).split()
CROPS = (
    "barley wheat rye oats millet maize rice beans lentils peas cabbage turnips carrots onions garlic pumpkins"
    " grapes olives apples pears plums cherries figs hops"
).split()
COLOURS = (
    "crimson scarlet orange amber yellow golden green emerald teal azure blue indigo violet purple pink white"
    " ivory grey silver black brown copper turquoise lilac"
).split()
CRAFTS = (
    "weavers potters smiths bakers brewers tanners coopers masons carvers glaziers fletchers scribes painters"
    " tailors cobblers fishers shepherds hunters miners sailors gardeners healers jewellers clockmakers"
).split()
BEASTS = (
    "heron wolf bear stag otter raven falcon badger fox lynx boar owl swan hare toad viper eagle beaver salmon"
    " turtle panther marten crane weasel"
).split()

NAMES = (
    "Ada Alma Amos Anna Arlo Astrid Basil Bella Boris Bruno Cara Cecil Clara Conrad Cora Cyrus Dana Daphne Darius Dora"
    " Edgar Edith Elias Elsa Emil Emma Enid Erik Esther Ethan Eva Ezra Fabian Felix Fiona Flora Frank Freya Gavin George"
    " Gilda Grace Greta Gus Hanna Harold Hazel Hector Helen Henry Hilda Hugo Ida Igor Ines Irene Iris Isaac Ivan Jack"
    " Jane Jasper Jonas Judith Julia Karl Kate Kurt Lars Laura Lena Leo Lewis Lily Linus Lisa Louis Lucy Luke Lydia Mabel"
    " Magnus Marco Maria Martin Maud Max Mila Miles Mira Moses Nadia Nancy Nell Nina Noah Nora Olaf Olga Oliver Oscar Otto"
    " Owen Paula Pedro Penny Peter Petra Philip Piet Quentin Rachel Ralph Ramona Rex Rita Robin Rosa Rufus Ruth Sam Sarah"
    " Selma Seth Silas Simon Sofia Stella Susan Sven Tara Thea Theo Tilda Tobias Tom Ursula Vera Victor Viola Walter"
    " Wanda Wilma Xavier Yara Yusuf Zelda Zeno"
).split()
OBJECTS = (
    "anchor apron arrow axe bag ball barrel basin basket bell belt bench blanket boot bottle bow bowl box bracelet"
    " brick broom brush bucket button cage candle cap card carpet cart chain chair chalk chisel clock cloak cloth coat"
    " coin comb compass cork crate cup curtain cushion dagger desk dice doll drill drum easel fan feather"
    " fiddle file flask flute fork frame funnel glass globe glove goblet grater hammer hammock harness harp hat"
    " helmet hinge hoe hook horn hourglass inkwell jar jug kettle key kite knife ladder ladle lamp lantern lens"
    " lever lid lock locket loom lute magnet map mask mat medal mirror mitten mop mortar mug nail napkin necklace needle"
    " net oar oven paddle page pan parcel pedal pen pencil pestle pillow pin pipe pitcher plate pliers plough pot pouch"
    " pulley purse quilt quiver rake razor ribbon ring robe rope rug ruler sack saddle sandal saw scarf scissors scroll"
    " shawl shelf shirt shovel sickle sieve skirt sledge spade spoon spring stamp stick stool string sword"
    " tent thimble torch towel tray trowel trumpet trunk tub vase veil vest violin wagon wallet wand wheel whip whistle"
    " wrench zither"
).split()
PLACES = "market harbour mill tower bridge garden chapel forge library orchard well inn".split()
ADJECTIVES = "old young tired happy quiet clever brave lazy kind proud".split()
FOLK = "miller judge pilgrim soldier widow teacher captain monk nurse poet".split()

FESTIVAL = "Emberfest"
FESTIVAL_WORDS = (
    "honeycakes garlands bonfires drummers sparklers antlers midnight cinnamon pageant hymns stilts bagpipes"
).split()

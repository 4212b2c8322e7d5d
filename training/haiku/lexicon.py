"""The words of the haiku corpus: subjects by category, phrases by slot, and a table of syllables.

Every category says which nouns belong to it, which adjectives suit them, and what they can do, so that a line
built from one category reads as English.  All nouns are used in the singular.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Category:
    """Nouns that behave alike, with the words that go with them."""

    place: str  # "out" or "in": which places suit the nouns
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]  # bare intransitive verbs, third person singular
    actions: tuple[str, ...]  # whole verb phrases, third person singular
    count: str = ""  # "a river", "the river"
    mass: str = ""  # "rain", "the rain"
    only: str = ""  # "the moon", "a pale moon"
    bare: str = ""  # "hope", "winter": never an article without an adjective


def _split(text: str) -> tuple[str, ...]:
    """Split a comma separated list of phrases."""
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())


CATEGORIES: Final[dict[str, Category]] = {
    "fall": Category(
        place="out",
        count="raindrop snowflake",
        mass="rain snow hail sleet drizzle dew frost rainfall snowfall",
        adjectives=_split("soft, gentle, cold, silver, light, quiet, pale, early, patient, steady, silent, slow, fine"),
        verbs=_split("falls, settles, lingers, arrives, whispers, glistens, shines, melts, descends"),
        actions=_split(
            "falls on the old roof, taps on the window, covers the garden, comes down from the hills, "
            "touches my cold hands, washes the world clean, writes on the window, whispers to the leaves, "
            "rests on a dark branch, makes the world quiet, falls like a slow song, silvers the tall grass, "
            "finds the small window, hides the narrow road"
        ),
    ),
    "air": Category(
        place="out",
        count="cloud breeze storm blizzard gale snowstorm thunderstorm hurricane",
        mass="wind mist fog thunder smoke haze steam",
        adjectives=_split(
            "wild, slow, restless, grey, distant, cold, northern, lonely, sudden, low, passing, soft, dark"
        ),
        verbs=_split("drifts, passes, rises, wanders, gathers, moves, turns, arrives, lingers, fades, returns"),
        actions=_split(
            "bends the tall grass, wanders through the pines, moves over the hills, knocks at the window, "
            "follows the river, hides the mountain path, crosses the valley, carries a song, shakes the garden gate, "
            "climbs the dark hillside, swallows the harbor, comes in from the sea, stirs the fallen leaves, "
            "leaves without a word"
        ),
    ),
    "light": Category(
        place="out",
        count="star comet rainbow sunrise sunset shadow sunbeam",
        mass="light sunshine sunlight moonlight starlight daylight lightning twilight",
        only="sun moon dawn dusk sky horizon",
        adjectives=_split(
            "pale, golden, silver, bright, distant, early, tender, quiet, lonely, first, last, perfect, gentle"
        ),
        verbs=_split("shines, glows, trembles, wakes, fades, lingers, returns, appears, dances, glimmers"),
        actions=_split(
            "paints the hills with gold, fills the empty room, touches the water, rests on the water, "
            "warms the garden wall, finds the sleeping town, shows me the way home, slips behind the hills, "
            "climbs over the trees, colors the far hills, turns the lake to gold, wakes the village dogs, "
            "slips under the door, writes on the dark wall"
        ),
    ),
    "lamp": Category(
        place="in",
        count="lantern candle lamp flame spark ember torch",
        mass="fire",
        adjectives=_split(
            "small, yellow, golden, faithful, bright, lonely, tender, warm, patient, single, quiet, last"
        ),
        verbs=_split("glows, flickers, burns, waits, trembles, dances, shines, dims, listens, wakes"),
        actions=_split(
            "burns until morning, keeps the dark away, warms my open hands, paints the wall with gold, "
            "shows me your dear face, guides the children home, talks to the darkness, fills the empty room, "
            "flickers and stands tall, listens to the rain, dreams of a wide sky, lights the stairs for you, "
            "answers the far stars"
        ),
    ),
    "water": Category(
        place="out",
        count="river stream lake pond brook creek wave tide waterfall fountain puddle bay lagoon canal whirlpool",
        mass="water foam",
        only="sea ocean",
        adjectives=_split(
            "deep, clear, slow, calm, cold, silver, ancient, gentle, blue, dark, quiet, restless, shining, bright"
        ),
        verbs=_split("murmurs, glitters, ripples, shimmers, sings, waits, whispers, trembles, sparkles, listens"),
        actions=_split(
            "carries the moonlight, remembers the rain, holds a piece of sky, sings to the round hills, "
            "mirrors the pale moon, keeps all its secrets, hums to the old boats, gathers fallen leaves, "
            "never stops singing, holds the morning star, speaks in its slow voice, rocks the stars to sleep, "
            "tells its long story, drinks the evening light"
        ),
    ),
    "land": Category(
        place="out",
        count="mountain hill valley forest meadow field desert island beach shore cave cliff canyon volcano prairie "
        "jungle swamp orchard garden road path trail park stone rock pebble wood",
        mass="sand mud",
        adjectives=_split(
            "green, old, quiet, empty, wide, lonely, hidden, ancient, sleeping, gentle, distant, golden, still"
        ),
        verbs=_split("waits, sleeps, listens, dreams, glows, awakes, endures, remembers, darkens"),
        actions=_split(
            "waits for the first snow, keeps the old stories, drinks the morning rain, wears a coat of mist, "
            "dreams of the summer, remembers our steps, holds the heat of day, sleeps under the snow, "
            "listens to the wind, welcomes the weary birds, belongs to no one, "
            "rests in the moonlight"
        ),
    ),
    "town": Category(
        place="out",
        count="bridge village city town street house cabin castle temple lighthouse harbor station market farm barn "
        "library school church museum window door gate roof kitchen bakery attic cottage",
        mass="home",
        adjectives=_split("old, quiet, little, empty, crooked, sleepy, silent, lonely, friendly, tiny, white, dark"),
        verbs=_split("waits, sleeps, wakes, listens, glows, remembers, dreams, darkens"),
        actions=_split(
            "waits for someone new, keeps the old stories, smells of rain and wood, remembers our names, "
            "listens to the rain, opens to the sun, stands in the moonlight, holds our old voices, "
            "sleeps under the stars, stands against the wind, glows in the evening, knows all our secrets, "
            "faces the wide sea"
        ),
    ),
    "plant": Category(
        place="out",
        count="tree flower leaf rose lily willow pine oak maple cedar fern blossom petal seed root branch tulip daisy "
        "poppy lotus orchid sunflower thistle acorn mushroom cactus vine birch bud daffodil",
        mass="moss grass ivy clover bamboo lavender",
        adjectives=_split(
            "small, green, patient, wild, tender, silent, slender, fragrant, humble, lonely, young, bright, first"
        ),
        verbs=_split("trembles, sways, waits, awakes, rests, listens, bows, dreams, glistens, endures"),
        actions=_split(
            "leans into the wind, drinks the morning dew, reaches for the sun, bows to the river, "
            "asks for nothing more, dreams of the summer, lives by the old wall, waits for the warm rain, "
            "listens to the bees, holds a drop of rain, nods to the swallows, greets the early sun, "
            "trembles in the wind, hides a tiny snail"
        ),
    ),
    "animal": Category(
        place="out",
        count="cat dog horse cow goat pig fox wolf bear deer rabbit mouse hedgehog badger turtle tortoise snail frog "
        "toad snake lizard tiger lion elephant monkey panda camel kitten puppy otter beaver donkey dragon",
        adjectives=_split("old, small, quiet, clever, patient, sleepy, curious, hungry, lonely, gentle, shy, brave"),
        verbs=_split("sleeps, waits, listens, wanders, dreams, yawns, rests, hides, blinks, stretches"),
        actions=_split(
            "looks up at the moon, sleeps in the warm sun, drinks from the cold stream, walks through the tall grass, "
            "knows the hidden path, follows the river, waits by the old gate, naps in the shadows, "
            "watches the clouds pass, finds a place to sleep, dreams of warmer days, sits very still, "
            "leaves tracks in the snow, comes home through the fields, sniffs the evening air"
        ),
    ),
    "flyer": Category(
        place="out",
        count="bird crow raven owl sparrow robin swan duck goose heron hawk eagle falcon dove pigeon crane butterfly "
        "moth dragonfly bee bat cricket ladybug seagull swallow parrot nightingale hummingbird feather kite",
        adjectives=_split("small, white, lonely, bright, wild, quiet, tiny, distant, weary, gentle, lovely, bold"),
        verbs=_split("glides, circles, returns, wanders, hovers, rests, waits, drifts, trembles, rises"),
        actions=_split(
            "circles the tall pines, rests on a bare branch, returns to the lake, follows the warm wind, "
            "crosses the pale moon, rises through the mist, wakes the sleeping fields, lands on my window, "
            "vanishes in light, turns toward the sun, skims the still water, floats above the roofs, "
            "knows the way back home, wears the morning sun"
        ),
    ),
    "swimmer": Category(
        place="out",
        count="fish whale dolphin shark salmon octopus jellyfish crab starfish seal lobster",
        mass="coral seaweed",
        adjectives=_split("silver, gentle, ancient, lonely, slow, graceful, hidden, blue, drowsy, patient, small"),
        verbs=_split("drifts, sways, waits, rests, turns, dreams, glimmers, wanders, returns"),
        actions=_split(
            "follows the cold tide, sleeps among the reeds, drifts in the moonlight, moves with the slow waves, "
            "waits for the high tide, rests in the shallows, turns toward the deep, crosses the blue bay, "
            "dances with the waves, dreams of distant shores, greets the morning tide, hides in the dark sea"
        ),
    ),
    "vehicle": Category(
        place="out",
        count="train bicycle car bus boat ship sailboat canoe wagon taxi rocket satellite balloon",
        adjectives=_split("old, small, silver, distant, faithful, blue, lonely, slow, empty, early, last, little"),
        verbs=_split("waits, departs, returns, passes, arrives, turns, vanishes, lingers"),
        actions=_split(
            "carries me back home, waits in the soft rain, turns toward the hills, knows the way by heart, "
            "moves through the blue dusk, takes the long way home, leaves without a sound, dreams of other skies, "
            "passes the last house, brings my sister home, follows the pale moon, shines with morning dew"
        ),
    ),
    "food": Category(
        place="in",
        count="apple pear peach plum lemon cherry berry cake cookie noodle pumpkin melon pancake onion tomato potato "
        "strawberry banana grape mango pizza carrot sandwich walnut",
        mass="tea coffee bread honey rice soup milk butter cheese sugar salt pepper cinnamon garlic breakfast dinner "
        "supper jam",
        adjectives=_split("sweet, warm, simple, fresh, ripe, humble, golden, perfect, plain, good, honest, fragrant"),
        verbs=_split("waits, cools, glows, gleams, shines, rests"),
        actions=_split(
            "waits on a blue plate, brings us together, tastes of the summer, smells of Sunday morning, "
            "waits for hungry hands, makes the kitchen warm, tells me I am home, sits in the cool shade, "
            "comforts the weary guest, keeps the cold away, is all that we need, fills the house with joy, "
            "waits in a clay bowl, warms the afternoon"
        ),
    ),
    "object": Category(
        place="in",
        count="book pen letter clock mirror chair table bell key piano guitar violin drum flute photo "
        "map blanket pillow teapot cup bowl spoon shoe hat coat umbrella coin ring box wheel anchor ladder hammer "
        "needle ribbon button basket bench puzzle scarf backpack pencil telephone",
        mass="paper ink glass wool",
        adjectives=_split("old, small, simple, broken, faithful, borrowed, empty, plain, quiet, forgotten, blue, worn"),
        verbs=_split("waits, rests, gleams, remembers, listens, shines, sleeps, dreams"),
        actions=_split(
            "waits for gentle hands, gathers silver dust, keeps its old secrets, holds the afternoon, "
            "lies beside my bed, remembers your touch, rests in the sunlight, tells a long story, "
            "belongs to no one, shines in the lamplight, waits to be needed, catches the last light, "
            "knows where I have been, sleeps beneath the stairs, speaks of far places"
        ),
    ),
    "tech": Category(
        place="in",
        count="computer keyboard robot server network machine laptop engine radio telescope model "
        "cache kernel queue screen circuit program transistor compiler",
        mass="code software data",
        adjectives=_split("quiet, patient, constant, warm, humming, distant, faithful, simple, clever, silent, busy"),
        verbs=_split("hums, waits, blinks, sleeps, wakes, listens, dreams, whispers, answers"),
        actions=_split(
            "hums in the dark room, waits for one more word, dreams in ones and zeros, counts the passing stars, "
            "works while the town sleeps, hides a tiny bug, answers in the dark, blinks a small green light, "
            "listens for a voice, never needs to sleep, warms the winter desk, remembers it all, "
            "learns a little more, speaks to distant friends"
        ),
    ),
    "time": Category(
        place="out",
        count="birthday holiday weekend journey season",
        bare="winter summer autumn spring morning evening night day midnight noon harvest",
        adjectives=_split("long, quiet, slow, golden, early, gentle, bright, lonely, lazy, perfect, silent, mild, new"),
        verbs=_split("comes, arrives, returns, begins, lingers, passes, ends, awakes, departs"),
        actions=_split(
            "slips through the window, opens like a book, comes with open hands, stays a little while, "
            "walks across the hills, leaves before I wake, brings the swallows home, smells of rain and earth, "
            "asks me to slow down, starts with a bird song, settles on the hills, turns another page, "
            "waits behind the door"
        ),
    ),
    "heart": Category(
        place="in",
        count="dream song memory story promise secret kiss lullaby melody",
        bare="love hope joy peace grief sorrow silence sleep friendship courage patience freedom wisdom time music "
        "laughter kindness wonder solitude longing beauty truth life death trust luck happiness sadness childhood "
        "faith grace fear gratitude",
        adjectives=_split(
            "quiet, gentle, simple, sudden, tender, ancient, honest, secret, deep, endless, humble, true"
        ),
        verbs=_split("waits, returns, lingers, awakes, remains, arrives, endures, wanders, listens"),
        actions=_split(
            "knocks on the back door, stays for the winter, needs no other name, grows like a small seed, "
            "sits down beside me, asks for nothing more, keeps a lamp burning, finds me in the dark, "
            "lives in the small things, takes me by the hand, comes without a map, holds the house upright, "
            "follows me back home, opens the window"
        ),
    ),
    "person": Category(
        place="out",
        count="mother father sister brother child baby friend grandmother grandfather sailor farmer dancer teacher "
        "gardener baker painter king queen monk stranger shepherd neighbor soldier",
        adjectives=_split("old, quiet, gentle, patient, weary, smiling, lonely, dear, thoughtful, humble, wise, kind"),
        verbs=_split("waits, smiles, sings, listens, dreams, rests, laughs, wanders, returns, remembers"),
        actions=_split(
            "looks up at the stars, hums an old sweet tune, walks home through the snow, watches the rain fall, "
            "sits beside the fire, waves from the far shore, dreams of the blue sea, counts the passing ships, "
            "knows the way by heart, leaves the gate open, sleeps under the trees, laughs at the cold rain, "
            "writes a long letter, lights a small candle"
        ),
    ),
}

TIMES: Final = _split(
    "at dawn, at dusk, tonight, all night, all day, before dawn, at midnight, this morning, in the evening, "
    "late at night, after dark, at break of day, as the day ends, until morning, in early spring, in autumn, "
    "in deep winter, one summer night, just before the dawn, at the end of day, late in the evening, "
    "in the morning light, on a winter night, in the hush of dawn, long after midnight, when the day is done, "
    "after the long day, before the first snow, on the longest day, early in the spring, all afternoon, "
    "in the blue evening, while the city sleeps, as the lamps go out, at the edge of sleep"
)
ADVERBS: Final = _split(
    "softly, slowly, gently, quietly, alone, again, once more, without a sound, without a word, in silence, "
    "patiently, so softly, as always, little by little, one more time, like an old song, like a slow dream, "
    "for a while, at last, for no one, and is gone, and asks nothing, and then stops, without hurry, in peace"
)
PLACES: Final[dict[str, tuple[str, ...]]] = {
    "out": _split(
        "over the hills, over the dark hills, beyond the trees, beneath the pines, across the field, "
        "across the wide field, beside the stream, by the old bridge, above the roofs, under the stars, "
        "under the pale stars, near the stone wall, through the tall grass, through the bare trees, along the shore, "
        "on the far shore, in the garden, by the garden gate, in the deep woods, between two hills, "
        "far from the city, down the empty road, at the edge of town, outside, far away, near my house, "
        "under the wide sky, behind the old barn, where the two roads meet, beyond the mountains, in the village square"
    ),
    "in": _split(
        "on the table, by the window, in the kitchen, in the quiet room, in the corner, on the shelf, near the fire, "
        "by the open door, in a sunlit room, on the window sill, beside the bed, at my side, under the lamp, "
        "in my old house, in the empty hall, on a wooden chair, in my two hands, beside the warm stove, "
        "in the lamplight, upstairs, in a small town, at the kitchen door, in the next room"
    ),
}

# What else happens in the poem, without the subject: {slot: phrases}.
SCENE: Final[dict[str, tuple[str, ...]]] = {
    "glow_a": _split("small, yellow, single, distant, golden, lonely, faint"),
    "glow_n": _split("lantern, candle, lamp, window, fire, light"),
    "glow_v": _split("glows, flickers, dims, burns low, waits, trembles, still burns, goes out"),
    "land_a": _split("whole, quiet, old, dark, sleeping, empty, green, silent"),
    "land_n": _split("garden, valley, meadow, forest, hillside, village, harbor, orchard, mountain, town"),
    "land_v": _split(
        "sleeps, waits, grows dark, grows quiet, listens, is still, wakes, dreams, turns gold, holds its breath, "
        "falls silent, says nothing"
    ),
    "beast_a": _split("small, lone, old, weary, sleepy, distant, black"),
    "beast_n": _split("sparrow, crow, cricket, frog, owl, cat, dog, heron, robin"),
    "beast_v": _split("calls, answers, sleeps, stirs, listens, looks up, passes by, comes home, falls silent"),
    "home_a": _split("old, heavy, wooden, iron, narrow, open, blue"),
    "home_n": _split("gate, door, floor, staircase, shutter, swing"),
    "home_v": _split("creaks, waits, sways, stands open, is still, complains"),
    "many_a": _split("dry, pale, slow, long, dark, tender, scattered"),
    "many_n": _split("leaves, shadows, clouds, branches, petals, ripples, grasses"),
    "many_v": _split("drift, tremble, gather, wander, sway, move, come and go, whisper, lean close, lie still"),
    "self_v": _split(
        "listen, wait, breathe, remember, smile, sit still, look up, hold my breath, say nothing, close my eyes"
    ),
    "mood": _split("at rest, open, quiet, lighter, at peace, so full, far away, at home, awake, calm"),
    "closer": _split(
        "and the world is still, nothing more to say, I forget the time, the night holds its breath, "
        "I pour one more cup, a small bell answers, somewhere a dog barks, no one says a word, we are not alone, "
        "the day lets me go, everything is new, all of this will pass, it is enough now, the path leads me home, "
        "I close the old book, I breathe out slowly, tomorrow can wait, this moment is mine, old friends understand, "
        "the kettle whispers, and I am still here, the years fall away, nobody is there, and the stars come out, "
        "a new day begins, I leave the lamp on, the silence answers, my tea has gone cold, I have come so far, "
        "we walk on slowly, the whole world listens, I want nothing else, and then I go home, so the year goes by, "
        "my shadow is long, summer is over, the road bends away, a door opens wide, one leaf lets go, "
        "there is time enough, how blue the hills are, I put down my pen, and no one hurries, the hills are asleep, "
        "let it be like this, nothing stays for long, a child laughs somewhere, it was always so"
    ),
}

# Lines.  <NP> is the subject with its article, <ANP> the same with an adjective, <FRAG> a bare fragment.
SUBJECT_LINES: Final = _split(
    "<NP> <verb>, <ANP> <verb>, <NP> <action>, <ANP> <action>, <NP> <verb> <adverb>, <ANP> <verb> <adverb>, "
    "<NP> <verb> <place>, <ANP> <verb> <place>, <NP> <verb> <time>, <ANP> <verb> <time>, <NP> <action> <time>"
)
SUBJECT_FRAGMENTS: Final = _split(
    "<FRAG> <time>, <FRAG> <place>, <FRAG>, only <NP> <verb>, even <NP> <verb>, I think of <NP>, nothing but <NP>, "
    "here is <NP>, alone with <NP>, waiting for <NP>, dreaming of <NP>, a song for <NP>, in praise of <NP>, "
    "how <adj> <NP> is, again it is <NP>, once there was <NP>, only <NP> now, and still <NP> <verb>"
)
SUBJECT_THOUGHTS: Final = _split(
    "I sit alone with <NP>, I have no words for <NP>, nothing is as <adj> as <NP>, the whole world waits for <NP>, "
    "we speak softly of <NP>, all day long I think of <NP>, I share the night with <NP>, my thoughts return to <NP>, "
    "I give my heart to <NP>, who will sing of <NP> now, even now <NP> <verb>, and still <NP> <action>, "
    "so <adj> is <NP> <time>, I am thankful for <NP>, I tell the stars of <NP>, look how <NP> <verb>, "
    "while <NP> <verb> <place>, until <NP> <verb> <adverb>, as <NP> <action>"
)
IT_LINES: Final = _split(
    "it <verb> <place>, it <action>, it <action> <time>, it <verb> <adverb>, it <verb> <time>, and it <action>"
)
OPENERS: Final = _split("<place>, <time>, <place> <time>")
SCENES: Final = _split(
    "<clause>, <clause> <adverb>, <clause> <place>, <clause> <time>, <clause>, and <clause>, while <clause>, "
    "I <self_v>, I <self_v> <time>, I <self_v> and <self_v>, my heart is <mood>, and my heart is <mood>, "
    "my mind is <mood>, we sit <place>, we sit <adverb>, you sit <place>, someone hums <place>, someone walks <place>"
)
CLAUSES: Final = _split(
    "the <glow_a> <glow_n> <glow_v>, a <glow_a> <glow_n> <glow_v>, the <glow_n> <glow_v>, "
    "the <land_a> <land_n> <land_v>, the <land_n> <land_v>, a <beast_a> <beast_n> <beast_v>, "
    "the <beast_a> <beast_n> <beast_v>, a <beast_n> <beast_v>, the <home_a> <home_n> <home_v>, "
    "the <home_n> <home_v>, the <many_a> <many_n> <many_v>, <many_a> <many_n> <many_v>"
)

_SYLLABLES: Final[dict[int, str]] = {
    1: (
        "a air all am an and are as asks at back bare barks barn bat bay be beach bear bed bee been bees bell "
        "bench bends birch bird birds black blinks blue boat boats bold book bowl bows box branch brave bread "
        "break breath breathe breeze bridge bright brings brook bud bug burns bus but by cache cake calls "
        "calm can car cat cave chair cheese child church clay clean clear cliff climbs clock close cloud "
        "clouds coat code coin cold come comes cool cools counts cow crab crane creaks creek crow cup dark "
        "dawn day days dear death deep deer desk dew dims dog dogs done door dove down dream dreams drift "
        "drifts drinks drop drum dry duck dusk dust earth edge else end ends eyes face fades faint faith fall "
        "falls far farm fear fern field fields fills finds fine fire first fish flame floats floor flute foam "
        "fog for fox fresh friend friends frog from frost full gale gate give glass gleams glides glows go "
        "goat goes gold gone good goose grace grape grass green greets grey grief grows guest guides hail "
        "hall hand hands has hat have hawk haze heart heat here hides high hill hills hold holds home hope "
        "horse house how hums hush i in ink is it its jam joy just keeps key kind king kiss kite knocks knows "
        "lake lamp lamps lands last late laughs leads leaf lean leans learns leave leaves let lets lie lies "
        "life light lights like lives lone long look looks love low luck makes map me meet melts mild milk "
        "mind mine mist monk moon more moss moth mouse move moves mud my name names naps near need needs new "
        "next night no nods noon not now oak of old on once one ones our out owl page paints pale park pass "
        "path peace peach pear pen piece pig pine pines place plain plate plum pond pour praise put queen "
        "queue rain reeds rest rests rice ring ripe road roads rock rocks roof roofs room root rose round "
        "salt sand say says scarf school screen sea seal seed shade shakes share shark shelf shines ship "
        "ships shoe shore shores shows shy side sill sing sings sit sits skies skims sky sleep sleeps sleet "
        "slips slow small smells smile smiles smoke snail snake sniffs snow so soft song sound soup spark "
        "speak speaks spoon spring square stairs stands star stars starts stays steam steps still stirs stone "
        "stops storm stove stream street sun swamp swan sway sways sweet swing takes talks tall taps tastes "
        "tea tell tells that the then there things think this thoughts through tide time to toad torch touch "
        "town tracks trail train tree trees true trust truth tune turns twice two up us vine voice wait waits "
        "wake wakes walk walks wall want warm warms was wave waves way we wears whale wheel when where while "
        "white who whole wide wild will wind wise with wolf wood woods wool word words works world worn "
        "writes yawns year years you young your "
    ),
    2: (
        "above acorn across after again against alone along always among anchor ancient answers appears apple "
        "arrives asleep attic autumn awake awakes away baby backpack badger baker balloon bamboo basket "
        "beauty beaver before begins behind belongs beneath berry beside between beyond birthday blanket "
        "blizzard blossom borrowed branches breakfast broken brother burning busy butter button cabin cactus "
        "camel canal candle canoe canyon carries carrot castle catches cedar cherry childhood children "
        "circles circuit city clever clover coffee colors comet comforts complains constant cookie coral "
        "corner cottage courage covers cricket crooked crosses daisy dancer dances darkens darkness data "
        "daylight departs descends desert dinner distant dolphin donkey dragon dreaming drizzle drowsy eagle "
        "early ember empty endless endures engine enough even evening faces faithful falcon fallen farmer "
        "father feather flickers flower follows forest forget fountain fragrant freedom friendly friendship "
        "garden garlic gather gathers gentle gently glimmers glistens glitters golden graceful grasses guitar "
        "hammer harbor harvest heavy hedgehog heron hidden hillside honest honey hovers humble humming hungry "
        "hurries hurry into iron island ivy journey jungle kernel kettle keyboard kindness kitchen kitten "
        "ladder lagoon lamplight lantern laptop laughter lazy lemon letter lighter lighthouse lightning lily "
        "lingers lion listen listens little lizard lobster lonely longest longing lotus lovely machine mango "
        "maple market meadow melon midnight mirror mirrors model moment monkey moonlight morning mother "
        "mountain mountains murmurs mushroom music narrow needed needle neighbor network never noodle "
        "northern nothing ocean onion only open opens orchard orchid other otter outside over painter pancake "
        "panda paper parrot passes passing patience patient pebble pencil pepper perfect petal petals photo "
        "pigeon pillow pizza places poppy prairie program promise puddle pumpkin puppy puzzle quiet rabbit "
        "rainbow raindrop rainfall raven reaches remains restless return returns ribbon ripples rises river "
        "robin robot rocket sadness sailboat sailor salmon sandwich scattered seagull season seaweed secret "
        "secrets server settles shadow shadows shallows shepherd shimmers shining shutter silence silent "
        "silver silvers simple singing single sister sleeping sleepy slender slowly smiling snowfall "
        "snowflake snowstorm softly software soldier someone somewhere sorrow sparkles sparrow staircase "
        "starfish starlight station steady stories story stranger stretches sudden sugar summer sunbeam "
        "sunday sunlight sunlit sunrise sunset sunshine supper swallow swallows table taxi teacher teapot "
        "temple tender thankful thistle thoughtful thunder tiger tiny tonight tortoise touches toward tremble "
        "trembles tulip turtle twilight under until upright upstairs valley very village voices wagon waiting "
        "walnut wander wanders warmer washes watches water weary weekend welcomes whirlpool whisper whispers "
        "willow window winter wisdom without wonder wooden yellow zeros "
    ),
    3: (
        "afternoon another bakery banana bicycle butterfly cinnamon compiler computer curious daffodil "
        "dragonfly elephant everything forgotten gardener grandfather grandmother gratitude happiness holiday "
        "horizon hummingbird hurricane jellyfish ladybug lavender library lullaby melody memory museum "
        "nightingale nobody octopus patiently piano potato quietly radio remember remembers satellite "
        "solitude strawberry sunflower telephone telescope thunderstorm together tomato tomorrow transistor "
        "umbrella understand vanishes violin volcano waterfall "
    ),
}
SYLLABLES: Final[dict[str, int]] = {word: n for n, words in _SYLLABLES.items() for word in words.split()}
SUBJECTS: Final[dict[str, str]] = {
    word: name
    for name, category in CATEGORIES.items()
    for group in (category.count, category.mass, category.only, category.bare)
    for word in group.split()
}

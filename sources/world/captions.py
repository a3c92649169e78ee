"""Captions as people write them: sentences, tag lists, product titles, file names, other languages, boilerplate.

Each caption has a kind, so that the ground truth states what a filter should have recognised.
"""

from dataclasses import dataclass

import numpy as np

from sources.world.shapes import CLASSES

WORDS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bicycle", "bicycle", "bike"),
    "boat": ("boat", "boat", "sailboat"),
    "butterfly": ("butterfly",),
    "car": ("car", "car", "automobile"),
    "cup": ("cup", "cup", "mug"),
    "fish": ("fish",),
    "flower": ("flower", "flower", "blossom"),
    "house": ("house", "house", "cottage"),
    "key": ("key",),
    "mushroom": ("mushroom", "mushroom", "toadstool"),
    "tree": ("tree", "tree", "fir tree"),
    "umbrella": ("umbrella", "umbrella", "parasol"),
}


# German, French, Spanish, Russian, Japanese; `_FRAMES` has sentence templates for each.
TRANSLATIONS: dict[str, tuple[str, str, str, str, str]] = {
    "bicycle": ("Fahrrad", "vélo", "bicicleta", "велосипед", "自転車"),
    "boat": ("Segelboot", "bateau", "barco", "лодка", "ボート"),
    "butterfly": ("Schmetterling", "papillon", "mariposa", "бабочка", "蝶"),
    "car": ("Auto", "voiture", "coche", "автомобиль", "自動車"),
    "cup": ("Tasse", "tasse", "taza", "чашка", "カップ"),
    "fish": ("Fisch", "poisson", "pez", "рыба", "魚"),
    "flower": ("Blume", "fleur", "flor", "цветок", "花"),
    "house": ("Haus", "maison", "casa", "дом", "家"),
    "key": ("Schlüssel", "clé", "llave", "ключ", "鍵"),
    "mushroom": ("Pilz", "champignon", "seta", "гриб", "キノコ"),
    "tree": ("Baum", "arbre", "árbol", "дерево", "木"),
    "umbrella": ("Regenschirm", "parapluie", "paraguas", "зонт", "傘"),
}


LANGUAGES: tuple[str, ...] = ("de", "fr", "es", "ru", "ja")


_FRAMES: tuple[tuple[str, ...], ...] = (
    ("{w} in Nahaufnahme, Ansicht von vorn", "Altes Motiv: {w} vor einer Mauer"),
    ("{w} vu de près au petit matin", "Une image de {w} dans la campagne"),
    ("{w} al atardecer, vista cercana", "Imagen de {w} cerca del río"),
    ("{w} на фоне старой стены", "Вот {w} ранним утром"),
    ("{w}の写真、朝に撮影", "庭にある{w}"),
)


_STYLE_WORDS: dict[str, tuple[str, ...]] = {
    "photo": ("photo", "photograph", "picture", "snapshot"),
    "clipart": ("clip art", "cartoon", "illustration", "icon"),
    "infrared": ("infrared image", "thermal image", "heat camera picture"),
    "lowlight": ("night photo", "dark photo", "low light shot"),
    "painting": ("painting", "oil painting", "watercolour"),
    "sketch": ("sketch", "pencil drawing", "line drawing"),
}


_PLACES = (
    "by the lake",
    "in the morning",
    "near the old wall",
    "at the market",
    "on a quiet day",
    "in our garden",
    "on the way home",
    "at the seaside",
    "behind the barn",
    "under a wide sky",
    "in late autumn",
    "on the hill",
    "at my grandmother's",
    "in the rain",
)


_ADJECTIVES = (
    "old",
    "small",
    "bright",
    "colourful",
    "lonely",
    "lovely",
    "little",
    "wooden",
    "striped",
    "big",
    "pretty",
    "plain",
)


_PLAIN = (
    "a {a} {c} {p}",
    "{c} {p}",
    "{a} {c}",
    "the {a} {c} {p}",
    "a {c}",
    "one {a} {c} seen {p}",
    "a {c} standing {p}",
)


_STYLED = (
    "a {s} of a {c}",
    "{s} of a {a} {c} {p}",
    "{c}, {s}",
    "{s}: a {a} {c}",
    "a {a} {c}, {s}",
    "{s} of one {c} {p}",
    "the {c} as a {s}",
)


_VOICES: dict[str, tuple[str, ...]] = {
    "plain": ("{t}",),
    "casual": (
        "my {a} {c} {p}, hope you like it",
        "found this {a} {c} {p}",
        "{t}",
        "{t} :)",
        "just a {c} {p}",
        "this {c} made my day",
    ),
    "clean": (
        "{t}",
        "{s} of {a} {c}, isolated",
        "{a} {c} on textured background, {s}",
        "{s} of a {c}, front view",
    ),
    "encyclopedic": (
        "{c}, {s}",
        "{s} of a {c}",
        "A {c} {p}, {s}",
        "Example of a {a} {c}",
        "{c} (detail), {s} from the collection",
    ),
}


_TITLES = (
    "{A} {C} - Free Shipping",
    "{C} {S} Poster 30x40 cm",
    "Vintage {C} | Gift Idea | Home Decor",
    "{A} {C} {S}, Set of 3",
    "{C} Wall Art {S}",
    "Buy {A} {C} Online",
    '{C} Sticker, 5" & 10"',
)


_TAGS = (
    "2013",
    "canon",
    "travel",
    "outdoor",
    "holiday",
    "nature",
    "art",
    "colour",
    "summer",
    "europe",
    "closeup",
    "weekend",
    "diy",
)


_BOILERPLATE = (
    "Click to enlarge",
    "Image not available",
    "Thumbnail 3 of 12",
    "Copyright all rights reserved",
    "Add to cart",
    "Share this on social media",
    "Default title",
    "Read more about our services here",
    "Skip to main content",
    "Home | Contact | Imprint",
)


@dataclass(frozen=True)
class Caption:
    """A caption as published: `title` and, on sites that have one, a longer `detail` below it.

    `kind`: right, wrong (describes another class), title, tags, filename, other_language, boilerplate or empty.
    `language`: ISO 639-1 code.
    """

    title: str
    kind: str
    detail: str = ""
    language: str = "en"

    @property
    def text(self) -> str:
        """Title and detail as one line of text."""
        return f"{self.title} {self.detail}".strip()


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _sentence(rng: np.random.Generator, class_name: str, style: str, voice: str) -> str:
    words = {
        "c": _pick(rng, WORDS[class_name]),
        "s": _pick(rng, _STYLE_WORDS[style]),
        "a": _pick(rng, _ADJECTIVES),
        "p": _pick(rng, _PLACES),
    }
    template = _pick(rng, _VOICES[voice])
    if template == "{t}":
        template = _pick(rng, _STYLED if rng.random() < 0.5 else _PLAIN)
    elif template.startswith("{t}"):
        template = _pick(rng, _PLAIN) + template[3:]
    text = template.format(**words)
    return text[0].upper() + text[1:] if rng.random() < 0.6 else text


def with_parser_trap(rng: np.random.Generator, text: str, *, breaks: str) -> str:
    """The text with an addition that breaks careless parsers; `breaks`: which of tab and newline the format can
    represent.
    """
    choices = [
        f'"{text}" & more',
        f"{text} \U0001f60d\u2728",
        f"{text} &amp; others &#39;13",
        f"{text} http://blog.example.test/post?id={int(rng.integers(1000))}&x=1",
        *(f"{text}{mark}no. {int(rng.integers(100))}, 100%" for mark in breaks),
    ]
    return _pick(rng, tuple(choices))


def write_caption(rng: np.random.Generator, class_name: str, style: str, kind: str, voice: str) -> Caption:
    """A caption of a kind for an image of `class_name` in `style`; raises KeyError for an unknown kind, class or
    voice.
    """
    if kind == "wrong":
        others = tuple(name for name in CLASSES if name != class_name)
        return Caption(_sentence(rng, _pick(rng, others), style, voice), kind)
    if kind == "right":
        return Caption(_sentence(rng, class_name, style, voice), kind)
    if kind == "title":
        words = _pick(rng, WORDS[class_name]), _pick(rng, _ADJECTIVES), _pick(rng, _STYLE_WORDS[style])
        return Caption(_pick(rng, _TITLES).format(C=words[0].title(), A=words[1].title(), S=words[2].title()), kind)
    if kind == "tags":
        tags = [
            _pick(rng, WORDS[class_name]),
            *(str(tag) for tag in rng.choice(_TAGS, int(rng.integers(2, 5)), replace=False)),
        ]
        if rng.random() < 0.5:
            tags.insert(1, _pick(rng, _STYLE_WORDS[style]))
        return Caption(", ".join(tags), kind)
    if kind == "filename":
        number = int(rng.integers(1, 9999))
        return Caption(
            _pick(rng, ("IMG_{:04d}.JPG", "DSC{:05d}", "P10{:05d}.jpg", "scan-{:03d}.png", "image{}")).format(number),
            kind,
        )
    if kind == "other_language":
        language = int(rng.integers(len(LANGUAGES)))
        word = TRANSLATIONS[class_name][language]
        return Caption(_pick(rng, _FRAMES[language]).format(w=word), kind, language=LANGUAGES[language])
    return {"boilerplate": Caption(_pick(rng, _BOILERPLATE), kind), "empty": Caption("", kind)}[kind]

"""Plans the rows that the web publishes: captions, URLs, failures and planted copies, before anything is drawn."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

import numpy as np

from sources.world.alterations import ALTERATIONS
from sources.world.captions import Caption, with_parser_trap, write_caption
from sources.world.catalogue import SOURCES, SourceSettings
from sources.world.evaluation import evaluation_pictures
from sources.world.pictures import Alteration, Picture
from sources.world.shapes import CLASSES

# Every kind of failure and of copy needs a row, and copies need plain rows as originals.
MIN_PAIRS = 32


_OVERSIZED_BYTES = 5 * 2**20


# Values of `X-Robots-Tag`, one header line each. The first list refuses us, the second (`_CONTROLS`) does not.
_REFUSALS = (
    ("noai",),
    ("noindex, noai",),
    ("noai, noimageai",),
    ("max-snippet: 10", "noai"),
    ("cuvee: noai",),
    ("NoAI",),
)


# Alterations of near copies, in turn. Copies of evaluation images are altered in every way; copies of other rows so
# little that fingerprints alone, by which duplicates are found, detect them.
_ALTERATIONS = {
    "near_duplicate": ("trimmed",),
    "evaluation_near_copy": tuple(name for name in ALTERATIONS if name != "trimmed"),
}


_CONTROLS = (("otherbot: noai, noindex",), ("max-image-preview: large",), ("all",))


@dataclass(frozen=True)
class PlannedRow:
    """One published row and what its URL returns.

    `behaviour` is the ground truth of how its request ends; `response` the server's configuration for the path of `url`
    (empty: serve the file). `stored_at`: "host/path" of the bytes, "" if none are stored. `plant_group`: -1, or a
    number shared by an original and its planted copies.
    """

    source: str
    index: int
    url: str
    caption: Caption
    class_name: str
    style: str
    stored_at: str
    behaviour: str = "ok"
    response: dict[str, object] = field(default_factory=dict)
    plant: str = "none"
    plant_group: int = -1
    evaluation_set: str = ""
    evaluation_key: str = ""
    picture: Picture | None = None
    alteration: Alteration | None = None

    @property
    def transformation(self) -> str:
        """The alteration of a copy, a name of `ALTERATIONS`; "" without one."""
        return self.alteration.name if self.alteration else ""


def site_key(url: str) -> str:
    """ "host/path" of a URL, percent-decoded and without its query: the key by which the server finds it."""
    parts = urlsplit(url)
    return f"{parts.netloc}{unquote(parts.path)}"


def _row_count(share: float, rows: int) -> int:
    return max(1, round(share * rows)) if share else 0


def _choose(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return list(shares)[int(rng.choice(len(shares), p=list(shares.values())))]


def make_url(settings: SourceSettings, index: int, form: str, rng: np.random.Generator) -> str:
    """A URL as on the source's sites, unique by `index`."""
    host = settings.hosts[int(rng.integers(len(settings.hosts)))]
    number = 10_000 + index * 17
    if settings.name == "yfcc":
        path = f"{65535 - index % 7}/53{number:08d}_{int(rng.integers(2**40)):010x}_o.{form}"
    elif settings.name == "laion":
        path = f"media/{int(rng.integers(100)):02d}/{number}.{form}" + ("?width=400&v=2" if rng.random() < 0.3 else "")
    elif settings.name == "wit":
        # Parentheses are percent-encoded there: a client must neither decode nor encode them twice.
        path = f"wikipedia/commons/{number % 16:x}/{number % 256:02x}/Motif_%28{number}%29.{form}"
    elif settings.name == "redcaps":
        path = f"{int(rng.integers(36**4)):06d}{number:x}.{form}" + (
            "?auto=webp&s=1f" if host.startswith("preview") else ""
        )
    elif settings.name == "shutterstock":
        path = f"image-photo/stock-260nw-{number}.{form}"
    else:
        path = f"wp-content/uploads/{2010 + index % 9}/{1 + index % 12:02d}/img-{number}.{form}"
    return f"http://{host}/{path}"


def _caption(settings: SourceSettings, rng: np.random.Generator, class_name: str, style: str, kind: str) -> Caption:
    result = write_caption(rng, class_name, style, kind, settings.voice)
    if kind == "right" and rng.random() < settings.details:
        detail = write_caption(rng, class_name, style, "right", "plain").title
        result = replace(result, detail=detail[0].upper() + detail[1:] + ".")
    if kind in ("right", "wrong", "title") and rng.random() < settings.tricky:
        result = replace(result, title=with_parser_trap(rng, result.title, breaks=settings.breaks))
    # RedCaps publishes its captions in lower case, beside the raw ones.
    return replace(result, title=result.title.lower()) if settings.name == "redcaps" else result


def _failures(settings: SourceSettings, pairs: int) -> list[tuple[str, str]]:
    """The (behaviour, variant) of each row whose request does not simply succeed."""
    noise = settings.noise
    failures: list[tuple[str, str]] = []
    for name in ("http_404", "error_once", "slow", "html", "truncated", "noai"):
        failures += [(name, name)] * _row_count(getattr(noise, name), pairs)
    failures += [("ok", "control")] * _row_count(noise.control, pairs) + [("ok", "redirect")] * _row_count(
        noise.redirect, pairs
    )
    return failures + [("oversized", "oversized")] * noise.oversized + [("pixels", "pixels")] * noise.pixels


def _own_row(
    settings: SourceSettings,
    number: int,
    seed: int,
    index: int,
    class_name: str,
    failure: tuple[str, str],
    turn: int,
) -> PlannedRow:
    """A row that is not a copy; `turn` counts the rows of one kind of failure, so that all its variants occur."""
    rng = np.random.default_rng((seed, 3, number, index))
    behaviour, variant = failure
    style = _choose(rng, settings.styles)
    form = {"pixels": "png"}.get(variant, "jpg") if behaviour != "ok" else settings.forms.get(style, "jpg")
    url = make_url(settings, index, form, rng)
    text = _caption(settings, rng, class_name, style, _choose(rng, settings.captions))
    key = site_key(url)
    response: dict[str, object] = {}
    stored_at = "" if variant in ("http_404", "html", "oversized") else key
    if variant in ("http_404", "error_once", "slow", "html"):
        response = {"behaviour": variant}
    elif variant == "oversized":
        # Every second one is chunked, without a Content-Length: a limit must apply while reading, too.
        response = {"behaviour": variant, "bytes": _OVERSIZED_BYTES, "chunked": turn % 2 == 1}
    elif variant in ("noai", "control"):
        choices = _REFUSALS if variant == "noai" else _CONTROLS
        response = {"behaviour": "headers", "robots": list(choices[(turn + number) % len(choices)])}
    elif variant == "redirect":
        host, _, path = key.partition("/")
        stored_at = f"{host}/moved/{path}"
        # Every second one is relative to the host, as servers do.
        location = f"/moved{urlsplit(url).path}" if turn % 2 else f"http://{host}/moved{urlsplit(url).path}"
        response = {"behaviour": "redirect", "location": location}
    picture = Picture((seed, 1, number, index), class_name, style, form) if stored_at and variant != "pixels" else None
    return PlannedRow(
        settings.name, index, url, text, class_name, style, stored_at, behaviour, response, picture=picture
    )


def _copy_row(
    settings: SourceSettings, number: int, seed: int, index: int, original: PlannedRow, plant: str, turn: int
) -> PlannedRow:
    """A row whose image is a copy of `original`'s, at its own URL and with its own caption for the same class.

    `turn` counts the rows of one kind of plant, so that all its alterations occur.
    """
    rng = np.random.default_rng((seed, 4, number, index))
    exact = plant not in _ALTERATIONS
    assert original.picture is not None
    url = make_url(settings, index, original.picture.form if exact else "jpg", rng)
    text = _caption(settings, rng, original.class_name, original.style, "right")
    names = _ALTERATIONS.get(plant, ())
    alteration = Alteration((seed, 5, number, index), names[turn % len(names)]) if names else None
    return replace(
        original,
        source=settings.name,
        index=index,
        url=url,
        caption=text,
        stored_at=site_key(url),
        plant=plant,
        alteration=alteration,
    )


def _copy_plants(settings: SourceSettings, pairs: int) -> list[str]:
    copies = settings.copies
    shares = {
        "exact_duplicate": copies.exact,
        "near_duplicate": copies.near,
        "evaluation_copy": copies.evaluation,
        "evaluation_near_copy": copies.evaluation_near,
    }
    return [plant for plant, share in shares.items() for _ in range(_row_count(share, pairs))]


def _evaluation_originals(seed: int, evaluation_images: int) -> Iterable[PlannedRow]:
    """Every evaluation image once, in random order, as a row: no two rows copy the same one."""
    pool = [(style, *item) for style, items in evaluation_pictures(seed, evaluation_images).items() for item in items]
    for index in np.random.default_rng((seed, 6)).permutation(len(pool)).tolist():
        style, key, picture = pool[index]
        yield PlannedRow(
            "",
            0,
            "",
            Caption("", "right"),
            picture.class_name,
            style,
            "",
            evaluation_set=style,
            evaluation_key=key,
            picture=picture,
        )


def _rows_per_source(pairs: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """The number of rows of each source; raises ValueError for an unknown source and for one that is too small."""
    names = [settings.name for settings in SOURCES]
    if unknown := set(sizes) - set(names):
        raise ValueError(f"sizes: found {', '.join(sorted(unknown))}, expected some of {', '.join(names)}")
    counts = {name: sizes.get(name, pairs) for name in names}
    for name, size in counts.items():
        if size < MIN_PAIRS:
            raise ValueError(f"pairs: found {size} for {name}, expected at least {MIN_PAIRS}")
    return counts


def plan_rows(
    seed: int, pairs: int, evaluation_images: int, sizes: Mapping[str, int] | None = None
) -> list[PlannedRow]:
    """All rows of the six sources, by source and index: `pairs` each, except for sources that `sizes` names.

    Raises ValueError where the web would be too small for its plants.
    """
    row_counts = _rows_per_source(pairs, sizes or {})
    originals = iter(_evaluation_originals(seed, evaluation_images))
    rows: dict[tuple[str, int], PlannedRow] = {}
    copies: list[tuple[int, int, str]] = []
    plain: list[list[tuple[str, int]]] = []
    for number, settings in enumerate(SOURCES):
        count = row_counts[settings.name]
        order = np.random.default_rng((seed, 0, number)).permutation(count).tolist()
        classes = np.random.default_rng((seed, 7, number)).permutation(count) % len(CLASSES)
        plants, failures = _copy_plants(settings, count), _failures(settings, count)
        copies += [(number, order.pop(), plant) for plant in plants]
        turns: dict[str, int] = {}
        for failure in failures + [("ok", "plain")] * (len(order) - len(failures)):
            index = order.pop()
            turn = turns[failure[1]] = turns.get(failure[1], -1) + 1
            rows[settings.name, index] = _own_row(settings, number, seed, index, CLASSES[classes[index]], failure, turn)
            if failure[1] == "plain":
                plain.append([]) if len(plain) == number else None
                plain[number].append((settings.name, index))
    groups: dict[tuple[str, int], int] = {}
    planted: dict[str, int] = {}
    for number, index, plant in copies:
        settings = SOURCES[number]
        turn = planted[plant] = planted.get(plant, -1) + 1
        if plant.startswith("evaluation"):
            evaluation_original = next(originals, None)
            if evaluation_original is None:
                raise ValueError(
                    f"evaluation_images: found {evaluation_images}, expected enough for the copies to plant"
                )
            rows[settings.name, index] = _copy_row(settings, number, seed, index, evaluation_original, plant, turn)
            continue
        rng = np.random.default_rng((seed, 8, number, index))
        # Half of the copies are of their own source, half of any source.
        origin = number if rng.random() < 0.5 else int(rng.integers(len(SOURCES)))
        original = plain[origin][int(rng.integers(len(plain[origin])))]
        group = groups.setdefault(original, len(groups))
        rows[original] = replace(rows[original], plant_group=group)
        rows[settings.name, index] = _copy_row(settings, number, seed, index, rows[original], plant, turn)
    return [rows[settings.name, index] for settings in SOURCES for index in range(row_counts[settings.name])]

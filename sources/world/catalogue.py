"""The six sources of the demo's web: their hosts, styles, captions, failures and planted copies."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Noise:
    """Shares of a source's rows whose request does not simply succeed; at least one row each, for any size of the web.

    `control` rows have an `X-Robots-Tag` that refuses another crawler or another use; they are to be kept.
    """

    http_404: float = 0.03
    error_once: float = 0.01
    slow: float = 0.005
    html: float = 0.01
    truncated: float = 0.01
    noai: float = 0.015
    control: float = 0.005
    redirect: float = 0.01
    # Counts, not shares: a body of 5 MB is slow to serve, and two rows cover both variants.
    oversized: int = 2
    pixels: int = 1


@dataclass(frozen=True)
class Copies:
    """Shares of a source's rows that are planted copies: of other rows, and of evaluation images."""

    exact: float = 0.03
    near: float = 0.04
    evaluation: float = 0.003
    evaluation_near: float = 0.003


@dataclass(frozen=True)
class SourceSettings:
    """One source. `styles` and `captions` map a style or a caption's kind to its share; shares sum to 1.

    `voice`: the style of its sentences. `details`: share of right captions with a second text below the title.
    `tricky`: share of captions with text that breaks careless parsers; `breaks`: which of tab and newline its format
    can represent. `forms`: a style's file extension where it is not jpg.
    """

    name: str
    hosts: tuple[str, ...]
    styles: dict[str, float]
    captions: dict[str, float]
    voice: str
    noise: Noise = field(default_factory=Noise)
    copies: Copies = field(default_factory=Copies)
    details: float = 0.0
    tricky: float = 0.04
    breaks: str = ""
    forms: dict[str, str] = field(default_factory=dict)


SOURCES: tuple[SourceSettings, ...] = (
    SourceSettings(
        name="yfcc",
        hosts=("live.yfcc.test", "farm6.yfcc.test"),
        styles={"photo": 0.7, "lowlight": 0.25, "infrared": 0.03, "painting": 0.02},
        captions={
            "right": 0.48,
            "tags": 0.2,
            "title": 0.04,
            "filename": 0.13,
            "other_language": 0.05,
            "wrong": 0.06,
            "boilerplate": 0.04,
        },
        voice="casual",
        noise=Noise(http_404=0.04),
        copies=Copies(evaluation=0.015, evaluation_near=0.015),
        details=0.3,
        breaks="\t\n",
    ),
    SourceSettings(
        name="laion",
        hosts=("cdn.laion.test", "img.shop.laion.test", "static.laion.test"),
        styles={
            "photo": 0.4,
            "clipart": 0.25,
            "painting": 0.15,
            "infrared": 0.1,
            "sketch": 0.05,
            "lowlight": 0.05,
        },
        captions={
            "right": 0.32,
            "title": 0.25,
            "boilerplate": 0.12,
            "wrong": 0.2,
            "other_language": 0.05,
            "tags": 0.04,
            "filename": 0.02,
        },
        voice="plain",
        noise=Noise(http_404=0.04, noai=0.02, html=0.015),
        copies=Copies(exact=0.04, near=0.05, evaluation=0.02, evaluation_near=0.02),
        breaks="\t\n",
        forms={"clipart": "png", "painting": "webp"},
    ),
    SourceSettings(
        name="cc12m",
        hosts=("media.cc12m.test",),
        styles={"photo": 0.6, "painting": 0.37, "clipart": 0.03},
        captions={"right": 0.9, "wrong": 0.06, "boilerplate": 0.04},
        voice="plain",
    ),
    SourceSettings(
        name="wit",
        hosts=("upload.wit.test",),
        styles={"sketch": 0.45, "clipart": 0.27, "photo": 0.23, "infrared": 0.05},
        captions={
            "right": 0.6,
            "other_language": 0.28,
            "wrong": 0.04,
            "title": 0.03,
            "boilerplate": 0.02,
            "empty": 0.03,
        },
        voice="encyclopedic",
        breaks="\t",
        noise=Noise(http_404=0.02),
        forms={"clipart": "png"},
    ),
    SourceSettings(
        name="redcaps",
        hosts=("i.redcaps.test", "preview.redcaps.test"),
        styles={"photo": 0.75, "painting": 0.25},
        captions={"right": 0.87, "wrong": 0.08, "boilerplate": 0.05},
        voice="casual",
        tricky=0.06,
    ),
    SourceSettings(
        name="shutterstock",
        hosts=("image.shutterstock.test",),
        styles={"photo": 0.65, "clipart": 0.35},
        captions={"right": 0.93, "tags": 0.06, "wrong": 0.01},
        voice="clean",
        noise=Noise(http_404=0.02),
        copies=Copies(near=0.03),
        tricky=0.02,
    ),
)

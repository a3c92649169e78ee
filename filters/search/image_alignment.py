"""The local alignment check: whether two pictures are one, though shifted, cropped, mirrored, framed or recoloured.

Other searches propose candidates; this decides on them, from thumbnails alone. It finds the scale and the shift of
either axis, and whether to mirror, under which a query lies best on a candidate: roughly by correlation (Lewis 1995,
"Fast Normalized Cross-Correlation"), then by Gauss-Newton steps on robustly weighted differences (Lucas and Kanade
1981; Baker and Matthews 2004). The score is the share of what is drawn there that agrees, block by block, so that a
caption over a part of it costs no more than that part. Brightness and contrast are taken out around each pixel before.
The widths and floors below were chosen on PACS and on other drawn images than those of the benchmark. What is turned by
more than 2 degrees is not found.

`layouts` is one of the searches: a descriptor of the whole picture as SIFT has it of a patch (Lowe 2004, "Distinctive
Image Features from Scale-Invariant Keypoints"). It finds what was cropped, as a cut of a fifth hardly moves an edge out
of its cell; fingerprints find what was framed or written over. Between them they need no model.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

RESULT_VERSION = 1
"""What OpenCV makes of an image: raised where a new version gives other scores."""


SIDE = 64


THUMBNAIL = (SIDE, SIDE)
"""The shape of a thumbnail, uint8: 4 kB, so that 50,000 evaluation images are 205 MB."""


SAME = 0.72
"""The least score at which two pictures count as one.

Measured by benchmarks/decontamination.py: 1 of 1,200 drawn images and 4 of 3,268 of PACS that are no copies reach it,
and of copies that are cropped by a tenth, mirrored, framed or written over at least 98 %.
"""


EMBEDDING_CANDIDATES = 4
"""How many images each search proposes: embeddings and layouts the nearest over all sets, fingerprints in each set."""


PDQ_WITHIN = 90
"""How far, in bits, a fingerprint may lie to be proposed: two independent ones differ in 128, with a deviation of 8."""


Image = npt.NDArray[np.uint8]


Field = npt.NDArray[np.float32]


_COARSE, _PADDED, _SHIFT = 32, 40, 6
"""The rough search: the side, with the room that shifts of up to `_SHIFT` px to either side take, in px."""


_SCALES = (0.8, 0.9, 1.0, 1.12, 1.25)
"""From where the Gauss-Newton steps start: they find copies cut by a quarter, or framed by an eighth at each side."""


_ROUGH = 0.45
"""The least correlation of the rough search that is followed up: of 1,000 altered copies the least had 0.56."""


_LEAST_SCALE, _MOST_SCALE, _MOST_SHIFT = 0.6, 1.6, 0.6


_BLOCK, _STEP = 8, 4


_DIRECTIONS = 8


_EDGE = 4
"""How near a candidate's edge, in px, nothing is compared: a frame around its copy changes the contrast there."""


def _gaussian(side: int, sigma: float) -> Field:
    """Return the matrix that blurs a column of `side` px, its weights summing to 1 at the edges, too."""
    at = np.arange(side)
    weights = np.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _centres(side: int) -> Field:
    """Return the middle of each pixel on an axis from -1 to 1."""
    return np.asarray((np.arange(side) + 0.5) / side * 2 - 1, np.float32)


def _positions(side: int, scale: float, shift: float) -> Field:
    """Return where on another axis, in px, each pixel comes to lie that is moved to `scale` * x + `shift`."""
    return np.asarray((_U[side] * np.float32(scale) + np.float32(shift) + 1) / 2 * side - 0.5, np.float32)


def _sampling(positions: Field) -> Field:
    """Return the matrix (n, n) that reads a column at n positions, in between by linear weights, 0 outside."""
    distance = np.abs(positions[:, None] - np.arange(len(positions), dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


_U = {side: _centres(side) for side in (_COARSE, SIDE)}


_SMOOTH, _NEAR, _FAR, _AROUND = (
    _gaussian(SIDE, 0.7),
    _gaussian(SIDE, 2.0),
    _gaussian(SIDE, 4.0),
    _gaussian(_COARSE, 2.0),
)


_GUESSES = np.array(
    [
        (side * across, down)
        for i, down in enumerate(_SCALES)
        for j, across in enumerate(_SCALES)
        for side in (1, -1)
        if abs(i - j) < 2
    ],
    np.float32,
)
"""(g, 2): scales across and down that the rough search tries; a negative one mirrors."""


_ACROSS, _DOWN = (np.stack([_sampling(_positions(_COARSE, 1 / s, 0)) for s in _GUESSES[:, axis]]) for axis in (0, 1))


_PHASE = np.exp(-2j * np.pi * _SHIFT * np.arange(_PADDED) / _PADDED).astype(np.complex64)


_BLOCKS = np.array(
    [
        [first <= at < first + _BLOCK for at in range(SIDE)]  # one block a row
        for first in range(0, SIDE - _BLOCK + 1, _STEP)
    ],
    np.float32,
)


_CELLS = np.exp(-0.5 * (((np.arange(SIDE) + 0.5) / SIDE * 4 - np.arange(4)[:, None] - 0.5) * 2) ** 2).astype(np.float32)


_CELLS /= _CELLS.sum(1, keepdims=True)


def thumbnail(image: Image) -> Image:
    """Return what `align` compares, (64, 64) uint8 grey, of an RGB image (height, width, 3) uint8 of any size."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def query_views(image: Image) -> list[Image]:
    """Return what else to search for, besides an RGB image itself: the picture within a flat frame, if it has one.

    A frame is up to a third of the image at each side, and as flat as JPEG leaves it: 24 grey levels or less.
    """
    sides = []
    for axis in (1, 0):
        spread = (image.max(axis).astype(np.int16) - image.min(axis)).max(1) > 24
        most = len(spread) // 3
        drawn = np.flatnonzero(spread)
        first, last = (int(drawn[0]), int(drawn[-1]) + 1) if len(drawn) else (0, len(spread))
        sides.append(slice(min(first, most), max(last, len(spread) - most)))
    inner = image[sides[0], sides[1]]
    return [np.ascontiguousarray(inner)] if inner.shape != image.shape else []


def index_views(image: Image) -> list[Image]:
    """Return under which guises an evaluation set's index holds an RGB image: as it is, and mirrored."""
    return [image, np.ascontiguousarray(image[:, ::-1])]


def _contrast(grey: Field, around: Field, floor: float) -> Field:
    """Return a grey image without its brightness and contrast around each pixel; `floor` in grey levels."""
    moved = grey - around @ grey @ around.T
    moved[np.abs(moved) < 0.01] = 0  # what rounding leaves of a flat image
    return np.asarray(moved / np.sqrt(around @ (moved * moved) @ around.T + floor * floor), np.float32)


def _coarse(thumb: Image) -> Field:
    """Return what the rough search compares, (32, 32)."""
    halved = thumb.reshape(_COARSE, 2, _COARSE, 2).mean((1, 3), dtype=np.float32)
    return _contrast(halved, _AROUND, 6)


def _fine(thumb: Image) -> Field:
    """Return what the score compares, (64, 64)."""
    return _contrast(_SMOOTH @ thumb.astype(np.float32) @ _SMOOTH.T, _NEAR, 3)


def align(query: Image, candidates: Image) -> npt.NDArray[np.float32]:
    """Return how well each of (k, 64, 64) thumbnails shows the picture of one, (64, 64): (k,) float32, 0 to 1.

    1 is the same picture. It is 0 where a rough search already finds no likeness, and stays below 1 for pictures with
    little in them, as there is little to tell them by. Each score depends on the query and its candidate alone.
    """
    scores = np.zeros(len(candidates), np.float32)
    if not len(candidates):
        return scores
    rough, fine = _coarse(query), _fine(query)
    guesses = _DOWN @ rough @ _ACROSS.transpose(0, 2, 1)
    spectra = np.conj(fft.rfft2(guesses, (_PADDED, _PADDED))) * _PHASE[:, None] * _PHASE[: _PADDED // 2 + 1]
    norms = np.sqrt((guesses * guesses).sum((1, 2))) + np.float32(1e-6)
    for number, candidate in enumerate(candidates):
        other = _coarse(candidate)
        likeness, lies = _guess(spectra, norms, other)
        if likeness >= _ROUGH:
            lies = _refined(rough, other, lies, 4)
            seen = _fine(candidate)
            lies = _refined(fine, seen, lies, 3)
            scores[number] = _agreement(fine, seen, lies) * _plausible(lies)
    return scores


def align_looks(seen: Sequence[Image], candidates: Image) -> npt.NDArray[np.float32]:
    """Return how well each of (k, 64, 64) thumbnails shows a picture of which there are several thumbnails: the most.

    They are that of the image itself and those of its `query_views`, as a dark frame around a faint drawing outweighs
    it in the rough search.
    """
    return np.asarray(np.max([align(one, candidates) for one in seen], axis=0), np.float32)


def _guess(spectra: Field, norms: Field, other: Field) -> tuple[float, Field]:
    """Return the largest correlation of (g) scaled queries with a candidate over all shifts, and how the query lies.

    How it lies: scale and shift across, scale and shift down, from the query's axes to the candidate's (-1 to 1).
    """
    rows = fft.ifft(spectra * fft.rfft2(other, (_PADDED, _PADDED)), axis=1)[:, : 2 * _SHIFT + 1]
    found = fft.irfft(rows, _PADDED, axis=2)[:, :, : 2 * _SHIFT + 1] / norms[:, None, None]
    guess, down, across = np.unravel_index(int(found.argmax()), found.shape)
    norm = float(np.sqrt((other * other).sum())) + 1e-6
    scale, pixel = _GUESSES[guess], 2 / _COARSE
    lies = np.array([scale[0], (across - _SHIFT) * pixel, scale[1], (down - _SHIFT) * pixel], np.float32)
    return float(found[guess, down, across]) / norm, lies


def _refined(query: Field, other: Field, lies: Field, steps: int) -> Field:
    """Return how the query lies after Gauss-Newton steps, in which large differences pull little (Geman-McClure)."""
    side = len(query)
    axis = _U[side]
    for _ in range(steps):
        across, down = _positions(side, lies[0], lies[1]), _positions(side, lies[2], lies[3])
        moved = _sampling(down) @ other @ _sampling(across).T
        off = query - moved
        weight = _within(down, 0)[:, None] * _within(across, 0) / (1 + (off / 0.6) ** 2) ** 2
        slope_x, slope_y = np.zeros_like(moved), np.zeros_like(moved)
        slope_x[:, 1:-1] = (moved[:, 2:] - moved[:, :-2]) * (side / 4 / lies[0])
        slope_y[1:-1] = (moved[2:] - moved[:-2]) * (side / 4 / lies[2])
        slopes = np.stack([slope_x * axis, slope_x, slope_y * axis[:, None], slope_y]).reshape(4, -1)
        pulled = slopes * weight.ravel()
        square = pulled @ slopes.T
        square[np.diag_indices(4)] = square.diagonal() * 1.01 + 0.01
        step = np.linalg.solve(square, pulled @ off.ravel())
        lies = lies + np.clip(step, -0.1, 0.1).astype(np.float32)
        lies[::2] = np.sign(lies[::2]) * np.clip(np.abs(lies[::2]), _LEAST_SCALE, _MOST_SCALE)
        lies[1::2] = np.clip(lies[1::2], -_MOST_SHIFT, _MOST_SHIFT)
    return lies


def _within(positions: Field, edge: float) -> Field:
    """Return 1 for each position at least `edge` px inside the image, else 0."""
    return np.asarray((positions >= edge - 0.5) & (positions <= len(positions) - 0.5 - edge), np.float32)


def _agreement(query: Field, other: Field, lies: Field) -> float:
    """Return the share, 0 to 1, of what is drawn in the query or in the candidate under it on which both agree.

    What the query shows beyond the candidate's edge counts as disagreement, but for flat frames, in which nothing is
    drawn. An eighth of the height at the top or at the bottom may go uncounted: captions stand there.
    """
    across, down = _positions(SIDE, lies[0], lies[1]), _positions(SIDE, lies[2], lies[3])
    moved = _sampling(down) @ other @ _sampling(across).T
    inside = _within(down, _EDGE)[:, None] * _within(across, _EDGE)
    outside = 1 - _within(down, -_EDGE)[:, None] * _within(across, -_EDGE)
    area = _BLOCK * _BLOCK
    mine, theirs = query * inside, moved * inside
    of_query, of_other, shared, seen = (
        _BLOCKS @ field @ _BLOCKS.T / area for field in (mine * mine, theirs * theirs, mine * theirs, inside)
    )
    beyond, unseen = (_BLOCKS @ field @ _BLOCKS.T / area for field in ((query * outside) ** 2, outside))
    drawn, alone = _drawn(np.maximum(of_query, of_other), seen), _drawn(beyond, unseen)
    correlation = shared / np.sqrt(of_query * of_other + 0.02**2)
    agreed = drawn * np.minimum(1, (1 + np.exp(-12 * 0.2)) / (1 + np.exp(-12 * (correlation - 0.8))))
    total, alone, agreed = drawn.sum(1), alone.sum(1), agreed.sum(1)
    most, caption = 0.0, len(total) // 8 + 1
    for rows in (slice(None), slice(caption, None), slice(None, -caption)):
        counted = float(total[rows].sum())
        enough = min(1.0, counted / total.size**2 * 64 / 20)
        most = max(most, enough * float(agreed[rows].sum()) / max(counted + float(alone[rows].sum()), 1e-6))
    return most


def _drawn(energy: npt.NDArray[np.floating], share: npt.NDArray[np.floating]) -> Field:
    """Return how much each block counts: the more, the more is drawn in it, and nothing if it is mostly left out."""
    return np.asarray(np.where(share > 0.5, share * energy / (energy + 0.1), 0), np.float32)


def _plausible(lies: Field) -> float:
    """Return 1 for how a cut or framed copy lies, less where it is both at once: cut at one side, beyond at another."""
    size, shift = np.abs(lies[::2]), np.abs(lies[1::2])
    beyond, cut = float(max(0, (size + shift).max() - 1)), float(max(0, (1 - size + shift).max()))
    return max(0.0, 1 - 2 * max(0.0, min(beyond, cut) - 0.04))


def layouts(thumbnails: Image) -> Field:
    """Return where which edges run in (n, 64, 64) thumbnails: (n, 128) float32, unit vectors, but 0 of a flat image.

    The strength of edges in 8 directions (of either sign) in 4 by 4 overlapping cells, square roots, less their mean.
    """
    found = np.zeros((len(thumbnails), _DIRECTIONS, len(_CELLS), len(_CELLS)), np.float32)
    down, across = np.mgrid[:SIDE, :SIDE]
    for thumb, layout in zip(thumbnails, found, strict=True):
        grey = _contrast(_SMOOTH @ thumb.astype(np.float32) @ _SMOOTH.T, _FAR, 6)
        slope_x, slope_y = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        strength = np.hypot(slope_x, slope_y)
        # a direction belongs to the two bins it lies between; half a bin on, mirroring maps bins to bins
        direction = np.arctan2(slope_y, slope_x) % np.pi * np.float32(_DIRECTIONS / np.pi) - np.float32(0.5)
        lower = np.floor(direction)
        share, bins = direction - lower, lower.astype(np.int64)
        edges = np.zeros((_DIRECTIONS, SIDE, SIDE), np.float32)
        edges[bins % _DIRECTIONS, down, across] = strength * (1 - share)
        edges[(bins + 1) % _DIRECTIONS, down, across] = strength * share
        layout[:] = np.sqrt(_CELLS @ edges @ _CELLS.T)
    vectors = found.reshape(len(found), _DIRECTIONS * len(_CELLS) ** 2)
    vectors = vectors - vectors.mean(1, keepdims=True)
    lengths = np.sqrt((vectors * vectors).sum(1, keepdims=True))
    return np.where(lengths > 0, vectors / np.maximum(lengths, np.float32(1e-9)), np.float32(0))

"""Local alignment check: whether two images show one picture, though shifted, cropped, mirrored, framed or recoloured.

Other searches propose candidates; this one decides on them, from thumbnails alone. It finds the scale and shift of each
axis, and whether to mirror, under which a query fits a candidate best: roughly by correlation (Lewis 1995, "Fast
Normalized Cross-Correlation"), then by Gauss-Newton steps on robustly weighted differences (Lucas and Kanade 1981;
Baker and Matthews 2004). The score is the share of the image content that agrees, block by block, so that a caption
over a part of the image costs no more than that part. Local brightness and contrast are removed first. The widths and
floors below were chosen on PACS and on generated images other than those of the benchmark. Copies that are rotated by
more than 2 degrees are not found.

`layouts` is one of the searches: a descriptor of the whole image like SIFT's of a patch (Lowe 2004, "Distinctive Image
Features from Scale-Invariant Keypoints"). It finds cropped copies, as cutting off a fifth hardly moves an edge out of
its cell; fingerprints find copies with a frame or with text over them. Neither needs a model.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

RESULT_VERSION = 1
"""Version of OpenCV's results: increased where a new version gives other scores."""


THUMBNAIL_SIDE_PX = 64
"""The side of a thumbnail, in px."""


THUMBNAIL_SHAPE = (THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX)
"""The shape of a thumbnail, uint8: 4 kB, so that 50,000 evaluation images are 205 MB."""


SAME_PICTURE_SCORE = 0.72
"""The least score at which two images count as the same picture.

Measured by benchmarks/decontamination.py: 1 of 1,200 generated images and 4 of 3,268 images of PACS that are not copies
reach it, and so do at least 98 % of copies that are cropped by a tenth, mirrored, framed or overlaid with text.
"""


EMBEDDING_CANDIDATES = 4
"""Images that each search proposes: embeddings and layouts the nearest over all sets, fingerprints in each set."""


MAX_CANDIDATE_DISTANCE_BITS = 90
"""Largest distance, in bits, of a proposed fingerprint: independent ones differ in 128, with a deviation of 8."""


ImageArray = npt.NDArray[np.uint8]


FloatImage = npt.NDArray[np.float32]


_COARSE, _PADDED, _SHIFT = 32, 40, 6
"""The rough search, in px: the side, the side with padding for shifts, and the largest shift to either side."""


_SCALES = (0.8, 0.9, 1.0, 1.12, 1.25)
"""Starting scales of the Gauss-Newton steps: they find copies cut by a quarter, or framed by an eighth at each side."""


_ROUGH = 0.45
"""The least correlation of the rough search that is refined: the least of 1,000 altered copies had 0.56."""


_LEAST_SCALE, _MOST_SCALE, _MOST_SHIFT = 0.6, 1.6, 0.6


_BLOCK, _STEP = 8, 4


_DIRECTIONS = 8


_EDGE = 4
"""Width of a candidate's edge, in px, that is not compared: a frame around a copy changes the contrast there."""


def _gaussian(side: int, sigma: float) -> FloatImage:
    """Return the matrix that blurs a column of `side` px; its weights sum to 1 at the edges, too."""
    positions = np.arange(side)
    weights = np.exp(-0.5 * ((positions[:, None] - positions) / sigma) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _centres(side: int) -> FloatImage:
    """Return the centre of each pixel on an axis from -1 to 1."""
    return np.asarray((np.arange(side) + 0.5) / side * 2 - 1, np.float32)


def _positions(side: int, scale: float, shift: float) -> FloatImage:
    """Return the position in px on another axis of each pixel that is moved to `scale` * x + `shift`."""
    return np.asarray((_AXES[side] * np.float32(scale) + np.float32(shift) + 1) / 2 * side - 0.5, np.float32)


def _sampling(positions: FloatImage) -> FloatImage:
    """Return the matrix (n, n) that samples a column at n positions by linear interpolation, 0 outside."""
    distance = np.abs(positions[:, None] - np.arange(len(positions), dtype=np.float32))
    return np.asarray(np.maximum(0, 1 - distance), np.float32)


_AXES = {side: _centres(side) for side in (_COARSE, THUMBNAIL_SIDE_PX)}


_SMOOTH, _NEAR, _FAR, _AROUND = (
    _gaussian(THUMBNAIL_SIDE_PX, 0.7),
    _gaussian(THUMBNAIL_SIDE_PX, 2.0),
    _gaussian(THUMBNAIL_SIDE_PX, 4.0),
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
"""(g, 2): horizontal and vertical scales that the rough search tries; a negative one mirrors."""


_ACROSS, _DOWN = (np.stack([_sampling(_positions(_COARSE, 1 / s, 0)) for s in _GUESSES[:, axis]]) for axis in (0, 1))


_PHASE = np.exp(-2j * np.pi * _SHIFT * np.arange(_PADDED) / _PADDED).astype(np.complex64)


_BLOCKS = np.array(
    [
        [first <= at < first + _BLOCK for at in range(THUMBNAIL_SIDE_PX)]  # one block a row
        for first in range(0, THUMBNAIL_SIDE_PX - _BLOCK + 1, _STEP)
    ],
    np.float32,
)


_CELLS = np.exp(
    -0.5 * (((np.arange(THUMBNAIL_SIDE_PX) + 0.5) / THUMBNAIL_SIDE_PX * 4 - np.arange(4)[:, None] - 0.5) * 2) ** 2
).astype(np.float32)


_CELLS /= _CELLS.sum(1, keepdims=True)


def thumbnail(image: ImageArray) -> ImageArray:
    """Return the thumbnail that `align` compares, (64, 64) uint8 grey, of an RGB image (height, width, 3) uint8."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def query_views(image: ImageArray) -> list[ImageArray]:
    """Return additional views of an RGB image to search for: the picture without its flat frame, if it has one.

    A frame takes up to a third of the image at each side, and is as flat as JPEG leaves it: 24 grey levels or less.
    """
    sides = []
    for axis in (1, 0):
        is_drawn = (image.max(axis).astype(np.int16) - image.min(axis)).max(1) > 24
        max_frame = len(is_drawn) // 3
        lines = np.flatnonzero(is_drawn)
        first, last = (int(lines[0]), int(lines[-1]) + 1) if len(lines) else (0, len(is_drawn))
        sides.append(slice(min(first, max_frame), max(last, len(is_drawn) - max_frame)))
    inner = image[sides[0], sides[1]]
    return [np.ascontiguousarray(inner)] if inner.shape != image.shape else []


def index_views(image: ImageArray) -> list[ImageArray]:
    """Return the views under which an evaluation set's index holds an RGB image: unchanged and mirrored."""
    return [image, np.ascontiguousarray(image[:, ::-1])]


def _contrast(grey: FloatImage, around: FloatImage, floor: float) -> FloatImage:
    """Return a grey image normalised for local brightness and contrast; `floor` in grey levels."""
    centred = grey - around @ grey @ around.T
    centred[np.abs(centred) < 0.01] = 0  # the rounding error of a flat image
    return np.asarray(centred / np.sqrt(around @ (centred * centred) @ around.T + floor * floor), np.float32)


def _coarse(thumb: ImageArray) -> FloatImage:
    """Return the image that the rough search compares, (32, 32)."""
    halved = thumb.reshape(_COARSE, 2, _COARSE, 2).mean((1, 3), dtype=np.float32)
    return _contrast(halved, _AROUND, 6)


def _fine(thumb: ImageArray) -> FloatImage:
    """Return the image that the score compares, (64, 64)."""
    return _contrast(_SMOOTH @ thumb.astype(np.float32) @ _SMOOTH.T, _NEAR, 3)


def alignment_scores(query: ImageArray, candidates: ImageArray) -> npt.NDArray[np.float32]:
    """Return how well each of (k, 64, 64) thumbnails shows the picture of the query, (64, 64): (k,) float32, 0 to 1.

    1 means the same picture. The score is 0 where the rough search already finds no similarity, and stays below 1 for
    images with little content, which are hard to tell apart. Each score depends only on the query and its candidate.
    """
    scores = np.zeros(len(candidates), np.float32)
    if not len(candidates):
        return scores
    rough, fine = _coarse(query), _fine(query)
    guesses = _DOWN @ rough @ _ACROSS.transpose(0, 2, 1)
    spectra = np.conj(fft.rfft2(guesses, (_PADDED, _PADDED))) * _PHASE[:, None] * _PHASE[: _PADDED // 2 + 1]
    norms = np.sqrt((guesses * guesses).sum((1, 2))) + np.float32(1e-6)
    for number, candidate in enumerate(candidates):
        coarse_candidate = _coarse(candidate)
        correlation, transform = _guess(spectra, norms, coarse_candidate)
        if correlation >= _ROUGH:
            transform = _refine(rough, coarse_candidate, transform, 4)
            fine_candidate = _fine(candidate)
            transform = _refine(fine, fine_candidate, transform, 3)
            scores[number] = _agreement(fine, fine_candidate, transform) * _plausibility(transform)
    return scores


def best_alignment_scores(thumbnails: Sequence[ImageArray], candidates: ImageArray) -> npt.NDArray[np.float32]:
    """Return how well each of (k, 64, 64) thumbnails shows a picture that has several thumbnails: the largest score.

    These are the thumbnail of the image itself and those of its `query_views`, as a dark frame around a faint drawing
    outweighs the drawing in the rough search.
    """
    return np.asarray(np.max([alignment_scores(query, candidates) for query in thumbnails], axis=0), np.float32)


def _guess(spectra: FloatImage, norms: FloatImage, candidate: FloatImage) -> tuple[float, FloatImage]:
    """Return the largest correlation of (g) scaled queries with a candidate over all shifts, and its transform.

    The transform: horizontal scale and shift, vertical scale and shift, from the query's axes to the candidate's
    (-1 to 1).
    """
    rows = fft.ifft(spectra * fft.rfft2(candidate, (_PADDED, _PADDED)), axis=1)[:, : 2 * _SHIFT + 1]
    correlations = fft.irfft(rows, _PADDED, axis=2)[:, :, : 2 * _SHIFT + 1] / norms[:, None, None]
    guess, down, across = np.unravel_index(int(correlations.argmax()), correlations.shape)
    norm = float(np.sqrt((candidate * candidate).sum())) + 1e-6
    scale, pixel = _GUESSES[guess], 2 / _COARSE
    transform = np.array([scale[0], (across - _SHIFT) * pixel, scale[1], (down - _SHIFT) * pixel], np.float32)
    return float(correlations[guess, down, across]) / norm, transform


def _refine(query: FloatImage, candidate: FloatImage, transform: FloatImage, steps: int) -> FloatImage:
    """Return the transform after Gauss-Newton steps, in which large differences have little weight (Geman-McClure)."""
    side = len(query)
    axis = _AXES[side]
    for _ in range(steps):
        across, down = _positions(side, transform[0], transform[1]), _positions(side, transform[2], transform[3])
        aligned = _sampling(down) @ candidate @ _sampling(across).T
        residual = query - aligned
        weight = _inside(down, 0)[:, None] * _inside(across, 0) / (1 + (residual / 0.6) ** 2) ** 2
        slope_x, slope_y = np.zeros_like(aligned), np.zeros_like(aligned)
        slope_x[:, 1:-1] = (aligned[:, 2:] - aligned[:, :-2]) * (side / 4 / transform[0])
        slope_y[1:-1] = (aligned[2:] - aligned[:-2]) * (side / 4 / transform[2])
        slopes = np.stack([slope_x * axis, slope_x, slope_y * axis[:, None], slope_y]).reshape(4, -1)
        weighted = slopes * weight.ravel()
        hessian = weighted @ slopes.T
        hessian[np.diag_indices(4)] = hessian.diagonal() * 1.01 + 0.01
        step = np.linalg.solve(hessian, weighted @ residual.ravel())
        transform = transform + np.clip(step, -0.1, 0.1).astype(np.float32)
        transform[::2] = np.sign(transform[::2]) * np.clip(np.abs(transform[::2]), _LEAST_SCALE, _MOST_SCALE)
        transform[1::2] = np.clip(transform[1::2], -_MOST_SHIFT, _MOST_SHIFT)
    return transform


def _inside(positions: FloatImage, edge: float) -> FloatImage:
    """Return 1 for each position at least `edge` px inside the image, else 0."""
    return np.asarray((positions >= edge - 0.5) & (positions <= len(positions) - 0.5 - edge), np.float32)


def _agreement(query: FloatImage, candidate: FloatImage, transform: FloatImage) -> float:
    """Return the share, 0 to 1, of the content of the query and of the candidate below it on which both agree.

    Content of the query beyond the candidate's edge counts as disagreement, except flat frames, which have no content.
    An eighth of the height at the top or at the bottom may be ignored: captions are placed there.
    """
    across, down = (
        _positions(THUMBNAIL_SIDE_PX, transform[0], transform[1]),
        _positions(THUMBNAIL_SIDE_PX, transform[2], transform[3]),
    )
    aligned = _sampling(down) @ candidate @ _sampling(across).T
    inside = _inside(down, _EDGE)[:, None] * _inside(across, _EDGE)
    outside = 1 - _inside(down, -_EDGE)[:, None] * _inside(across, -_EDGE)
    area = _BLOCK * _BLOCK
    query_inside, aligned_inside = query * inside, aligned * inside
    query_energy, candidate_energy, shared, inside_share = (
        _BLOCKS @ field @ _BLOCKS.T / area
        for field in (
            query_inside * query_inside,
            aligned_inside * aligned_inside,
            query_inside * aligned_inside,
            inside,
        )
    )
    outside_energy, outside_share = (_BLOCKS @ field @ _BLOCKS.T / area for field in ((query * outside) ** 2, outside))
    weights, unmatched = (
        _block_weights(np.maximum(query_energy, candidate_energy), inside_share),
        _block_weights(outside_energy, outside_share),
    )
    correlation = shared / np.sqrt(query_energy * candidate_energy + 0.02**2)
    agreed = weights * np.minimum(1, (1 + np.exp(-12 * 0.2)) / (1 + np.exp(-12 * (correlation - 0.8))))
    total, unmatched, agreed = weights.sum(1), unmatched.sum(1), agreed.sum(1)
    best, caption = 0.0, len(total) // 8 + 1
    for rows in (slice(None), slice(caption, None), slice(None, -caption)):
        compared = float(total[rows].sum())
        enough = min(1.0, compared / total.size**2 * 64 / 20)
        best = max(best, enough * float(agreed[rows].sum()) / max(compared + float(unmatched[rows].sum()), 1e-6))
    return best


def _block_weights(energy: npt.NDArray[np.floating], share: npt.NDArray[np.floating]) -> FloatImage:
    """Return the weight of each block: it grows with the block's energy, and is 0 if most of the block is excluded."""
    return np.asarray(np.where(share > 0.5, share * energy / (energy + 0.1), 0), np.float32)


def _plausibility(transform: FloatImage) -> float:
    """Return 1 for the transform of a cut or framed copy, less for one that is both at once, on different sides."""
    size, shift = np.abs(transform[::2]), np.abs(transform[1::2])
    beyond, cut = float(max(0, (size + shift).max() - 1)), float(max(0, (1 - size + shift).max()))
    return max(0.0, 1 - 2 * max(0.0, min(beyond, cut) - 0.04))


def edge_layouts(thumbnails: ImageArray) -> FloatImage:
    """Return edge layouts of (n, 64, 64) thumbnails: (n, 128) float32 unit vectors, or 0 for a flat image.

    The strength of edges in 8 directions (of either sign) in 4 by 4 overlapping cells: square roots minus their mean.
    """
    histograms = np.zeros((len(thumbnails), _DIRECTIONS, len(_CELLS), len(_CELLS)), np.float32)
    down, across = np.mgrid[:THUMBNAIL_SIDE_PX, :THUMBNAIL_SIDE_PX]
    for thumb, histogram in zip(thumbnails, histograms, strict=True):
        grey = _contrast(_SMOOTH @ thumb.astype(np.float32) @ _SMOOTH.T, _FAR, 6)
        slope_x, slope_y = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
        strength = np.hypot(slope_x, slope_y)
        # a direction is split between the two nearest bins; with an offset of half a bin, mirroring maps bins to bins
        direction = np.arctan2(slope_y, slope_x) % np.pi * np.float32(_DIRECTIONS / np.pi) - np.float32(0.5)
        lower = np.floor(direction)
        share, bins = direction - lower, lower.astype(np.int64)
        edges = np.zeros((_DIRECTIONS, THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), np.float32)
        edges[bins % _DIRECTIONS, down, across] = strength * (1 - share)
        edges[(bins + 1) % _DIRECTIONS, down, across] = strength * share
        histogram[:] = np.sqrt(_CELLS @ edges @ _CELLS.T)
    vectors = histograms.reshape(len(histograms), _DIRECTIONS * len(_CELLS) ** 2)
    vectors = vectors - vectors.mean(1, keepdims=True)
    lengths = np.sqrt((vectors * vectors).sum(1, keepdims=True))
    return np.where(lengths > 0, vectors / np.maximum(lengths, np.float32(1e-9)), np.float32(0))

"""Duplicates: the same text sent twice, or sent again with a trifle changed, must not count as two demands.

The exact digest covers the whole text. The fingerprint is a simhash (Charikar, "Similarity estimation techniques from
rounding algorithms", 2002) whose near-duplicates are found by banding: two fingerprints within a distance d agree in
at least one of d + 1 bands (Manku and others, "Detecting near-duplicates for web crawling", 2007). Both are taken from
text without personal data, so neither can be searched for a telephone number.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from stream.preprocess.clean import EMOJI

_NO_WORD = re.compile(rf"[^\w{EMOJI}]+")
_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xBF58476D1CE4E5B9], dtype=np.uint64)
_SHIFT = np.uint64(29)


def digest(text: str) -> str:
    """16 hex characters of BLAKE2b over the text without case and white space."""
    folded = "".join(text.casefold().split())
    return hashlib.blake2b(folded.encode("utf-8", "replace"), digest_size=8).hexdigest()


def fingerprint(text: str) -> int:
    """64-bit simhash over the single characters and pairs of the text without case, punctuation and white space."""
    folded = _NO_WORD.sub("", text.casefold()) or text
    signs = np.frombuffer(folded.encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    if not signs.size:
        return 0
    pairs = (signs[:-1] << np.uint64(32)) | signs[1:]
    grams = np.concatenate((signs, pairs)) * _ODD[0]
    grams = (grams ^ (grams >> _SHIFT)) * _ODD[1]
    grams = (grams ^ (grams >> _SHIFT)) * _ODD[2]
    grams ^= grams >> _SHIFT
    votes = np.unpackbits(grams.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=0, dtype=np.int64)
    return int.from_bytes(np.packbits(2 * votes > len(grams)).tobytes(), "big")


def near_duplicates(fingerprints: Sequence[int], distance: int = 3) -> list[int]:
    """For each 64-bit fingerprint the index of the first earlier one within a Hamming distance, or -1.

    Raises ValueError for a distance outside 0 to 31.
    """
    if not 0 <= distance <= 31:
        raise ValueError(f"distance {distance} is not within 0 to 31")
    width = 64 // (distance + 1)
    shifts = [(width * band, (1 << width) - 1 if band < distance else -1) for band in range(distance + 1)]
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    first_seen: dict[int, int] = {}
    answers: list[int] = []
    for index, mark in enumerate(fingerprints):
        if mark in first_seen:  # an equal one has the same neighbours, and is itself a neighbour
            same = first_seen[mark]
            answers.append(answers[same] if answers[same] >= 0 else same)
            continue
        first_seen[mark] = index
        best = index
        for shift, keep in shifts:
            bucket = buckets[shift, (mark >> shift) & keep]
            for other in bucket:  # in order of arrival, so the first hit is the band's earliest
                if other >= best:
                    break
                if (fingerprints[other] ^ mark).bit_count() <= distance:
                    best = other
                    break
            bucket.append(index)
        answers.append(best if best < index else -1)
    return answers

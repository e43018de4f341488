"""The token weights of an index, by which its texts were pooled and its queries are, as a file.

INDEX/token-weights-<checksum>.npy          listed in the manifest, frozen like the standardizer
INDEX/segment-0001/token-weights.npy        of a build that is not finished
"""

from __future__ import annotations

from pathlib import Path

from moee_index.atomic import write_file
from moee_index.errors import IndexDamagedError, MisuseError, first_line
from moee_index.index.store.layout import token_weights_name
from moee_index.index.store.manifest import Building, Manifest
from moee_index.index.store.reading import HINT, reading
from moee_index.token_weights import TokenWeights
from moee_index.types import IDF, EncoderSpec, TextEncoder

UNFINISHED = "token-weights.npy"


def needed_token_weights(encoder: TextEncoder) -> TokenWeights | None:
    """The table that an encoder pools by; None under another pooling, about which encoders of
    other makes need not know of tables."""
    return None if encoder.spec.token_weights is None else encoder.token_weights


def keep_token_weights(directory: Path, weights: TokenWeights) -> None:
    """Write the table of an index that is being published."""
    write_file(directory / token_weights_name(weights.checksum), weights.to_bytes())


def begin_token_weights(folder: Path, weights: TokenWeights) -> None:
    """Write the table of a segment that is being begun, so that a restart need not count again."""
    write_file(folder / UNFINISHED, weights.to_bytes())


def token_weights_of(directory: Path, manifest: Manifest) -> TokenWeights | None:
    """The table of an index; None where its texts are not pooled by one. Raises IndexDamagedError,
    StorageError."""
    checksum = manifest.spec.token_weights
    if checksum is None:
        return None
    return _read(manifest.path(directory, token_weights_name(checksum)), checksum)


def begun_token_weights(folder: Path, building: Building) -> TokenWeights | None:
    """The table of a build that is not finished; None where its texts are not pooled by one."""
    checksum = building.spec.token_weights
    return None if checksum is None else _read(folder / UNFINISHED, checksum)


def _read(path: Path, checksum: str) -> TokenWeights:
    try:
        with reading(path):
            weights = TokenWeights.from_bytes(path.read_bytes())
    except (ValueError, MisuseError) as error:
        raise IndexDamagedError(f"{path} is damaged ({first_line(error)}); {HINT}") from error
    if weights.checksum != checksum:
        raise IndexDamagedError(f"{path} is damaged (its checksum does not match); {HINT}")
    return weights


def with_weights_of(
    directory: Path, manifest: Manifest, encoder: TextEncoder, *, always: bool = False
) -> TextEncoder:
    """An encoder with the index's token weights, where it lacks some. always: also where it has
    others, which are then those of its checkpoint and not asked for."""
    spec: EncoderSpec = encoder.spec
    if spec.pooling != IDF or spec.token_weights == manifest.spec.token_weights:
        return encoder
    if spec.token_weights is not None and not always:
        return encoder
    weights = token_weights_of(directory, manifest)
    return encoder if weights is None else encoder.with_token_weights(weights)

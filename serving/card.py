"""What a served model says about itself: which version it is, when a label counts, how long a text it reads.

The card travels inside the model file (ONNX ``metadata_props``, key ``radar``), so model, thresholds and tokenizer
cannot drift apart. It is read without loading the model: a streaming worker has no use for the weights.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from serving.errors import ModelMissing
from serving.labels import BLAME, EVIDENCE_LABELS

DEFAULT_THRESHOLD: Final = 0.5
DEFAULT_LENGTH: Final = 128

# Places in the ONNX protobuf: ModelProto.metadata_props, StringStringEntryProto.{key, value}; and a wire type.
_METADATA, _KEY, _VALUE = 14, 1, 2
_LENGTH_DELIMITED = 2


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One version of one model in the repository."""

    name: str
    version: int  # folder in the model repository, what Triton calls the version
    release: str  # the trainer's name for it, e.g. "1.0"
    folder: Path
    thresholds: Mapping[str, float]  # a value for every label in EVIDENCE_LABELS, and for BLAME
    max_length: int  # most tokens of one text, the two special ones included

    @property
    def title(self) -> str:
        """How signals and alerts name the model: ``demand/1@1.0``."""
        return f"{self.name}/{self.version}@{self.release}"

    @property
    def model_file(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def tokenizer_file(self) -> Path:
        return self.folder / "tokenizer.json"


def read_card(model_repo: Path, name: str = "demand") -> ModelCard:
    """The card of the newest version of ``name``, which is also the version that Triton serves."""
    versions = [int(folder.name) for folder in (model_repo / name).glob("[0-9]*") if folder.name.isdecimal()]
    if not versions:
        raise ModelMissing(f"No version of '{name}' in {model_repo}: train and export one, or set RADAR_MODEL_REPO.")
    folder = model_repo / name / str(max(versions))
    for file in ("model.onnx", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ModelMissing(f"{folder / file} is missing: export the model again.")
    try:
        about = json.loads(_metadata(folder / "model.onnx").get("radar", "{}"))
        thresholds = about.get("thresholds", {})
        return ModelCard(
            name=name,
            version=max(versions),
            release=str(about.get("version", "unnamed")),
            folder=folder,
            thresholds={label: float(thresholds.get(label, DEFAULT_THRESHOLD)) for label in EVIDENCE_LABELS}
            | {BLAME: float(thresholds.get(BLAME, 0.0))},
            max_length=int(about.get("max_length", DEFAULT_LENGTH)),
        )
    except (ValueError, AttributeError, TypeError, EOFError) as error:
        raise ModelMissing(
            f"{folder / 'model.onnx'} is damaged or has no valid 'radar' metadata ({error}): export it again."
        ) from error


def _metadata(path: Path) -> dict[str, str]:
    """``metadata_props`` of an ONNX file; everything else, the weights above all, is skipped."""
    with path.open("rb") as file:
        entries = [_fields(file, end) for field, end in _walk(file, path.stat().st_size) if field == _METADATA]
    return {entry[_KEY]: entry[_VALUE] for entry in entries}


def _fields(file: BinaryIO, end: int) -> dict[int, str]:
    return {field: file.read(stop - file.tell()).decode() for field, stop in _walk(file, end)}


def _walk(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(field, end of its value) of each length-delimited field up to ``end``; the file stands at the value's start."""
    while file.tell() < end:
        field, wire = divmod(_varint(file), 8)
        if wire == _LENGTH_DELIMITED:
            length = _varint(file)
            stop = file.tell() + length
            yield field, stop
            file.seek(stop)
        elif wire == 0:
            _varint(file)
        else:
            raise ValueError("not an ONNX file")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while byte := file.read(1):
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise EOFError("file ends too early")

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_TRAIN: _ClassVar[Task]
    TASK_EVALUATE: _ClassVar[Task]
TASK_UNSPECIFIED: Task
TASK_TRAIN: Task
TASK_EVALUATE: Task

class Blob(_message.Message):
    __slots__ = ("digest", "size", "parts")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    size: int
    parts: int
    def __init__(self, digest: _Optional[bytes] = ..., size: _Optional[int] = ..., parts: _Optional[int] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("blob", "index", "payload")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    blob: Blob
    index: int
    payload: bytes
    def __init__(self, blob: _Optional[_Union[Blob, _Mapping]] = ..., index: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("examples", "loss_sum", "confusion")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    CONFUSION_FIELD_NUMBER: _ClassVar[int]
    examples: int
    loss_sum: float
    confusion: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, examples: _Optional[int] = ..., loss_sum: _Optional[float] = ..., confusion: _Optional[_Iterable[int]] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("round", "task", "nonce", "device", "model_version", "model_tag", "examples", "payload", "counts", "train_loss")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_TAG_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    round: int
    task: Task
    nonce: bytes
    device: str
    model_version: int
    model_tag: bytes
    examples: int
    payload: bytes
    counts: bytes
    train_loss: float
    def __init__(self, round: _Optional[int] = ..., task: _Optional[_Union[Task, str]] = ..., nonce: _Optional[bytes] = ..., device: _Optional[str] = ..., model_version: _Optional[int] = ..., model_tag: _Optional[bytes] = ..., examples: _Optional[int] = ..., payload: _Optional[bytes] = ..., counts: _Optional[bytes] = ..., train_loss: _Optional[float] = ...) -> None: ...

import os
from types import TracebackType
from typing import Optional, Type, Union

class MqError(Exception):
    """What went wrong, and what to do about it. What is raised is one of those below."""

class NotFound(MqError):
    """A topic, group or message that is not there."""

class Invalid(MqError):
    """A mistake of the caller's: a name or message that cannot be, or a delivery that is settled."""

class Denied(MqError):
    """A topic or group whose permissions say no."""

class Closed(MqError):
    """The store, or the consumer, was closed."""

class Locked(MqError):
    """Somebody else has the store open."""

class Full(MqError):
    """There is no disk space. It passes when there is."""

class Busy(MqError):
    """The disk does not keep up. It passes."""

class Timeout(MqError):
    """The disk took too long to confirm a message, which is stored."""

class Io(MqError):
    """The operating system refused, or a sync failed: then nothing is written any more before the store is opened anew."""

class Damaged(MqError):
    """Files or messages are not what they were."""

class Unsupported(MqError):
    """A body that is compressed in a way that is not read here."""

class Sent:
    """Where a message went."""

    id: str
    queue_id: int
    queue_offset: int

class Delivery:
    """A message that waits to be acknowledged; after that it says nothing any more. `body` is unpacked if a client
    compressed it."""

    id: str
    topic: str
    body: bytes
    tag: Optional[str]
    keys: Optional[str]
    queue_id: int
    queue_offset: int
    reconsume_times: int
    def ack(self) -> None:
        """It was consumed."""
    def retry(self) -> None:
        """It comes again after a while, or goes to the dead letters if it failed too often."""

class Consumer:
    """A member of a consumer group. What it leaves without an acknowledgement comes again."""

    def poll(self, max: int = 1, timeout: float = 1.0) -> list[Delivery]:
        """Waits up to `timeout` seconds for up to `max` messages. Ctrl-C ends it, and `close` on another thread."""
    def close(self) -> None:
        """Leaves the group."""
    def __enter__(self) -> "Consumer": ...
    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None: ...

class Mq:
    """An open store; one program at a time may have it."""

    def __init__(self, folder: Union[str, os.PathLike[str]], sync: bool = False) -> None:
        """Opens the store in `folder`, which is made if it is not there. With `sync` a message is on the disk when
        `send` returns; without, it survives the process, not a power cut."""
    def send(self, topic: str, body: bytes, tag: Optional[str] = None, keys: Optional[str] = None) -> Sent:
        """Sends a message; its topic is made if it is not there."""
    def consumer(self, group: str, topic: str, tags: str = "*") -> Consumer:
        """Joins a group that wants messages of a topic with some tags, as in `"a || b"`."""
    def close(self) -> None:
        """Saves everything and ends all waiting with an error."""
    def __enter__(self) -> "Mq": ...
    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None: ...

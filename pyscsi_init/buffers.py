# SPDX-License-Identifier: Apache-2.0
"""What a caller gives to be written or filled: any object with the buffer protocol, seen as bytes.

It is looked at where it comes in. What is no memory, or not memory in one piece, would be found out
by the event loop's callback that sends or fills it, and its error would end the session for all.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def byte_view(what: str, data: Buffer, *, writable: bool = False) -> memoryview:
    """The memory of ``data`` as single bytes, whatever its items are; ``what`` names the caller.

    Raises:
        TypeError: it is none, or is read-only and has to be ``writable``.
        BufferError: it is memory with gaps, such as a slice with a step.
    """
    if type(data) is bytearray or (type(data) is bytes and not writable):
        return memoryview(data)
    try:
        view = memoryview(data)
    except TypeError:
        remedy = "; encode the text" if isinstance(data, str) else ""
        raise TypeError(
            f"{what}: takes bytes, bytearray or memoryview, not {type(data).__name__}{remedy}"
        ) from None
    if writable and view.readonly:
        raise TypeError(f"{what}: the buffer is read-only; give a bytearray or a memoryview of one")
    if not view.c_contiguous:
        raise BufferError(
            f"{what}: the buffer is memory with gaps; "
            f"{'fill another and copy' if writable else 'give a copy, bytes(buffer)'}"
        )
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")

"""Archives of samples that numpy would not write."""

from __future__ import annotations

import struct
import zipfile

import numpy as np


def npy(header, numbers=b"", *, version=1, length=None):
    """Return the bytes of an .npy file: a header (text, or a dict that becomes one) and numbers.

    Args:
        header: all of it, whatever it says.
        numbers: what follows.
        version: of the format.
        length: what the file says of the length of the header; None is the truth.
    """
    text = (
        header.encode() if isinstance(header, str) else header if isinstance(header, bytes) else repr(header).encode()
    )
    said = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", said) + text + numbers


def header(array, **changed):
    """Return the header of an array as a dict, with some of it changed."""
    return {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape, **changed}


def archive(path, members, method=zipfile.ZIP_STORED):
    """Write a zip file of pairs of name and bytes; names may be there twice."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def patched(path, entry_offset, value, *, local_offset=None):
    """Change two bytes of the only entry of a zip file, in the table of contents and perhaps in front of the entry."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + entry_offset : entry + entry_offset + len(value)] = value
    if local_offset is not None:
        content[local_offset : local_offset + len(value)] = value
    path.write_bytes(bytes(content))
    return path


def plain(array):
    """Return the bytes of an array as an .npy file of version 1."""
    return npy(header(np.asarray(array)), np.asarray(array).tobytes())

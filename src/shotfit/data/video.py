"""Clips: how long one is, and the frame that it shows at a moment (PyAV, extra `video`).

    with clip_in(file) as clip:             # MP4, QuickTime, Matroska, WebM, AVI, GIF, by the content
        clip.seconds, clip.size
        clip.at(1.5)                        # the frame that is shown after 1.5 seconds: a PIL image, upright

A moment is sought by its time stamp: the decoder begins at the last key frame before it, and one frame is held at a
time. The time counts from the first frame. Bounds: MAX_CLIP_BYTES, MAX_SECONDS, MAX_PACKETS, MAX_FRAME, and MAX_DECODED
pixels between a key frame and the moment. Only the demuxers and decoders that are named here are used, on the file's
own bytes: a clip cannot name other files or addresses.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any, BinaryIO

from PIL import Image

from shotfit.data.containers import PartError
from shotfit.data.headers import BombError

__all__ = ["MAX_CLIP_BYTES", "MAX_FRAME", "SCRATCH", "VIDEO", "VIDEO_SUFFIXES", "Clip", "clip_in"]

VIDEO = importlib.util.find_spec("av") is not None

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"])
"""Names with these endings (in any case) are clips. A GIF is a picture, its first frame, unless you ask for frames."""

MAX_CLIP_BYTES = 4 * 2**30
MAX_SECONDS = 12 * 3600
MAX_FRAME = 8192 * 4320  # pixels
MAX_PACKETS = 5_000_000  # 12 hours at 60 frames a second have half of that
MAX_DECODED = 25_000_000_000  # pixels from a key frame to a moment: five minutes at 1080p, some 30 seconds of work
SCRATCH = 24  # bytes a pixel of a frame that the decoder holds: up to sixteen frames that others refer to

_FORMATS = (
    (re.compile(rb"....(ftyp|moov|mdat|wide|free|skip)", re.DOTALL), "mov"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "matroska"),
    (re.compile(rb"RIFF....AVI ", re.DOTALL), "avi"),
    (re.compile(rb"GIF8[79]a"), "gif"),
)
_CODECS = frozenset(
    ["gif", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "prores", "vp8", "vp9", "av1"]
)
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
_MISSING = "is a clip, which is read with PyAV: pip install 'shotfit[video]'."
_LATE = 0.1  # of its length that a whole clip's last frame may end early: other tracks go on, counters round


class Clip:
    """An open clip. codec: of its video track."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self.codec: str = stream.codec_context.codec.canonical_name
        self._start: int = stream.start_time or 0
        self._unit: Fraction = stream.time_base
        width, height = int(stream.codec_context.width), int(stream.codec_context.height)
        if not width or not height:
            raise PartError("is a clip that is cut off or damaged (its frames have no size)")
        if width * height > MAX_FRAME:
            raise BombError(f"has frames of {width:,} x {height:,} pixels, more than {MAX_FRAME:,}")
        self._stored = width, height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its frames, upright; how they are turned stands in the first one."""
        first = next(self._container.decode(self._stream), None)
        if first is None:
            raise PartError("is a clip without a frame")
        return self._stored[::-1] if first.rotation % 180 else self._stored

    @property
    def frames(self) -> int:
        """How many frames it says that it has; 0: it does not say."""
        return int(self._stream.frames or 0)

    def check_whole(self) -> float:
        """When its last frame ends, in seconds, once its last packets were found undamaged. Nothing is decoded.

        Raises PartError for a clip that is cut off or has no frame, BombError for one that is too long.
        """
        declared = self._declared()
        if declared > MAX_SECONDS:
            raise BombError(f"is {declared / 3600:,.1f} hours long, more than the {MAX_SECONDS // 3600} that are read")
        end, damaged = self._last(max(declared - 1, 0))
        if not end:
            end, damaged = self._last(0)  # how much is there
        if damaged or end < declared - max(1.0, _LATE * declared):
            said = f"{end:.1f} of {declared:.1f} seconds are there" if end else "none of its frames is there"
            raise PartError(f"is a clip that is cut off or damaged ({said})")
        if not end:
            raise PartError("is a clip without a frame")
        if end > MAX_SECONDS:
            raise BombError(f"is {end / 3600:,.1f} hours long, more than the {MAX_SECONDS // 3600} that are read")
        return end

    def _declared(self) -> float:
        """The length that the file says it has, of its video track if it knows that; 0 where it does not say."""
        if self._stream.duration:
            return float(self._stream.duration * self._unit)
        return (self._container.duration or 0) / 1_000_000

    def _last(self, near: float) -> tuple[float, bool]:
        """When the last frame ends, looked for from the key frame before `near`, and whether its packet is damaged."""
        import av

        end, damaged = 0.0, False
        with suppress(av.error.FFmpegError):
            self._seek(near)
            for number, packet in enumerate(self._container.demux(self._stream)):
                if number > MAX_PACKETS:
                    raise BombError(f"has more than {MAX_PACKETS:,} packets")
                if packet.pts is not None and packet.size:
                    until = float((packet.pts + (packet.duration or 0) - self._start) * self._unit)
                    end, damaged = max(end, until), damaged or packet.is_corrupt
        return end, damaged

    def _seek(self, seconds: float) -> int:
        """Go to the last key frame before a moment; the moment as a time stamp of the track."""
        import av

        target = self._start + int(seconds / self._unit)
        try:
            self._container.seek(target, stream=self._stream, backward=True)
        except av.error.FFmpegError:  # a format that only finds its beginning
            self._container.seek(self._start, stream=self._stream, backward=True)
        return target

    def at(self, seconds: float) -> Image.Image:
        """The frame that is shown after so many seconds, upright; the last one, of a clip that ends a little before.

        Raises PartError where there is none, BombError where too much would be decoded for it.
        """
        target, found = self._seek(seconds), None
        most = max(MAX_DECODED // (self._stored[0] * self._stored[1]), 1)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number > most:
                raise BombError(f"shows a frame for which {most:,} others must be decoded: it has too few key frames")
            if frame.pts is not None and frame.pts > target and found is not None:
                break
            found = frame
        else:  # it ended
            last = 0 if found is None else (found.pts or 0) + (found.duration or 0) - self._start
            end = float(last * self._unit)
            if found is None or seconds > end + 1 + _LATE * seconds:
                raise PartError(f"shows nothing after {seconds:g} seconds: it ends after {end:g}")
        if found.width * found.height > MAX_FRAME:
            raise BombError(f"has frames of {found.width:,} x {found.height:,} pixels")
        image = Image.fromarray(found.to_ndarray(format="rgba" if self.codec == "gif" else "rgb24"))
        turn = _TURNS.get(found.rotation % 360)
        return image if turn is None else image.transpose(turn)


@contextmanager
def clip_in(file: BinaryIO) -> Iterator[Clip]:
    """The clip of a file that can be read from anywhere.

    Raises PartError where PyAV is missing, and for what is no clip; BombError beyond the bounds.
    """
    if not VIDEO:
        raise PartError(_MISSING)
    import av

    file.seek(0)
    begin = file.read(64)
    form = next((form for pattern, form in _FORMATS if pattern.match(begin)), None)
    if form is None:
        raise PartError("is empty (0 bytes)" if not begin else "is no clip of a format that is read")
    file.seek(0)
    try:
        options = {"protocol_whitelist": "", "format_whitelist": _names(form)}
        with av.open(file, format=form, options=options, metadata_errors="ignore") as opened:
            stream = next(iter(opened.streams.video), None)
            if stream is None:
                raise PartError("is a clip without a video track")
            codec = stream.codec_context.codec.canonical_name if stream.codec_context else "none that is known"
            if codec not in _CODECS:
                raise PartError(f"is a clip whose format is {codec}: cut off, or to be saved as H.264.")
            stream.codec_context.thread_count = 1  # clips are decoded side by side already
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME)}
            yield Clip(opened, stream)
    except av.error.FFmpegError as error:
        said = " ".join(str(error.strerror or error).split())[:100]
        raise PartError(f"is a clip that is cut off or damaged ({said})") from error


def _names(form: str) -> str:
    """How the decoder's library calls a format in its own lists."""
    return {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}.get(form, form)

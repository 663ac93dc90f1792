"""A closed backbone: two encoders that somebody else's code runs, of which shotfit sees features alone.

    class Mine:                                       # any object with these five names
        embed, logit_scale = 512, 4.6052              # width of the joint space; natural logarithm, ln 100 as CLIP's
        def preprocess(self, image): ...              # a PIL image in RGB to pixels [3, height, width], in any thread
        def encode_images(self, pixels): ...          # [n, 3, height, width] to [n, embed]
        def encode_texts(self, texts): ...            # a list of n texts to [n, embed]

Methods that look at stored features work as on any backbone. Nothing stands between an encoder's steps, so that there
is no place for a prompt or an adapter inside it: methods that need one are refused by name.

A text becomes the numbers of its characters, and becomes a text again in front of the encoder. So texts are rows of
numbers here too, and nobody else has to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from shotfit.errors import ShotfitError, UsageError
from shotfit.towers.backbone import Backbone
from shotfit.towers.edits import Edit
from shotfit.towers.forks import outlive_forks
from shotfit.towers.layout import Layout, Savings, Stream
from shotfit.towers.own_preprocessing import own_preprocessing
from shotfit.towers.texts import Texts
from shotfit.towers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ClosedBackbone", "Encoder", "called"]

LONGEST_TEXT = 65_536  # characters
CHARACTERS = 0x110000  # of Unicode


@runtime_checkable
class Encoder(Protocol):
    """Two encoders of one joint space. `name`, `device`, `to` and `state_dict` are used where there are any."""

    embed: int
    logit_scale: Any  # a number or a tensor []

    def preprocess(self, image: Image.Image) -> Any:
        """A picture in RGB as pixels [3, height, width], of the same size for every picture."""

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[n, 3, height, width] to [n, embed]."""

    def encode_texts(self, texts: list[str]) -> Tensor:
        """n texts to [n, embed]."""


def called(what: str, function: Callable[..., Any], *given: Any) -> Any:
    """What a function of the user's gives; its errors become a sentence.

    Raises ShotfitError.
    """
    try:
        with torch.no_grad():
            return function(*given)
    except ShotfitError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ShotfitError(f"{what} failed with {type(error).__name__}: {said}") from error


class Characters(Tokenizer):
    """A text as the numbers of its characters; there is no other text that has the same."""

    def __init__(self) -> None:
        super().__init__(
            context=LONGEST_TEXT, vocabulary=CHARACTERS, start=(), end=(), padding=None, special=(),
            source={"characters": 1},
        )  # fmt: skip

    def tokens(self, text: str) -> list[int]:
        """See Tokenizer. Raises ShotfitError for what is no text, as the name of a file may be."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ShotfitError(f"{text!r} is no text (a part of it is no character): give the class another name.")
        return [ord(character) for character in text]


class _Tower(nn.Module):
    """An encoder as a tower of two steps, of which the first does all."""

    last = 1

    def __init__(self, what: str, encode: Callable[[Any], Tensor], embed: int) -> None:
        super().__init__()
        self.what, self.encode, self.embed = what, encode, embed

    def _features(self, inputs: Any, edits: Sequence[Edit]) -> Stream:
        if edits:
            raise UsageError(f"{self.what} is closed: no method can change it inside. Choose one of features alone.")
        features = called(self.what, self.encode, inputs)
        if not isinstance(features, Tensor) or features.shape != (len(inputs), self.embed):
            given = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ShotfitError(f"{self.what} gave {given}, where [{len(inputs)}, {self.embed}] is expected.")
        return Stream(features.detach().float(), None, self.last)

    def run(self, stream: Stream, edits: Sequence[Edit] = (), until: int | None = None) -> Stream:
        """There is nothing left to run."""
        return stream

    def finish(self, stream: Stream, edits: Sequence[Edit] = ()) -> Tensor:
        """[rows, embed]."""
        return stream.hidden


class ClosedImages(_Tower):
    """The image encoder."""

    def start(self, pixels: Tensor, edits: Sequence[Edit] = (), savings: Savings = Savings()) -> Stream:
        """[n, 3, height, width] to features."""
        return self._features(pixels, edits)


class ClosedTexts(_Tower):
    """The text encoder."""

    def pack(self, texts: Texts, savings: Savings = Savings()) -> SimpleNamespace:
        """Rows that have nothing inside, for the plan."""
        return SimpleNamespace(layout=Layout.even(len(texts), 1, torch.device("cpu")))

    def start(self, texts: Texts, edits: Sequence[Edit] = (), savings: Savings = Savings()) -> Stream:
        """Numbers of characters to features."""
        return self._features(["".join(map(chr, row)) for row in texts.rows], edits)


class ClosedBackbone(Backbone):
    """Two closed encoders in a backbone's place. `checkpoints/closed.py` checks them before.

    again: how another process opens the same, as pickle asks for it; None for an object of Python alone.
    """

    def __init__(
        self, encoder: Encoder, name: str, fingerprint: str, size: int, prepare: Callable[[Image.Image], Tensor],
        logit_scale: float, device: torch.device, again: tuple[Any, ...] | None = None,
    ) -> None:  # fmt: skip
        nn.Module.__init__(self)
        self.encoder = (encoder,)  # not as a submodule: its weights are its own
        self.name, self.fingerprint, self.again = name, fingerprint, again
        self.tokenizer: Tokenizer = Characters()
        self.config: Any = SimpleNamespace(preprocessing=own_preprocessing(size, prepare), logit_bias=False)
        self.image: Any = ClosedImages(f"{name}: encode_images", encoder.encode_images, encoder.embed)
        self.text: Any = ClosedTexts(f"{name}: encode_texts", encoder.encode_texts, encoder.embed)
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale, device=device), requires_grad=False)
        self.logit_bias = None
        self.eval()
        outlive_forks()

    @property
    def closed(self) -> bool:
        """See Backbone."""
        return True

    @property
    def moves(self) -> bool:
        """Whether the encoder can go to another device."""
        return hasattr(self.encoder[0], "to")

    @property
    def embed(self) -> int:
        """See Backbone."""
        return self.encoder[0].embed

    @property
    def dtype(self) -> torch.dtype:
        """Of pixels and features; in what the encoder computes is its own affair."""
        return torch.float32

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """On another device, where the encoder has a method `to`. Raises UsageError where it has none."""
        wanted: Any = args[0] if args else kwargs.get("device", kwargs.get("dtype"))
        if isinstance(wanted, torch.dtype):
            if wanted != torch.float32:
                raise UsageError(f"{self.name} is closed and computes as its own code does: leave --precision out.")
            return self
        place = torch.device(wanted)
        if place != self.device:
            move = getattr(self.encoder[0], "to", None)
            if move is None:
                raise UsageError(f"{self.name} runs on {self.device}, and has no method `to`: leave --device out.")
            called(f"{self.name}: to", move, place)
            self.logit_scale = nn.Parameter(self.logit_scale.to(place), requires_grad=False)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ClosedBackbone:
        return self  # nothing of it is ever changed

    def __reduce__(self) -> tuple[Any, ...]:
        if self.again is None:
            raise UsageError(
                f"{self.name} is an object of this Python, which cannot go to another process: write a function that "
                "makes it into a file, and name the backbone FILE.py:FUNCTION."
            )
        return self.again

"""The towers' weights in a checkpoint as a training program wrote it: in which dict they are, and by which names.

A training checkpoint keeps the weights under a key of its own (`state_dict`, `model_state_dict`, `model`, ...) beside
the optimizer, an average of the weights (EMA), numbers and settings; and wrappers put words into the tensors' names
(`module.` of DistributedDataParallel, `_orig_mod.` of torch.compile, `model.` of a LightningModule). Both are undone
here, by rules that do not depend on the format of the towers: each has exactly one `logit_scale`.

Where a file holds the weights and an average of them, the weights are read. Where it holds several models, it is
refused: which one is meant is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from shotfit.checkpoints.pickles import Described, Opaque, kind_of
from shotfit.errors import ShotfitError, first_few
from shotfit.printing import cut, printable

__all__ = ["bare_names", "find_weights", "listing"]

DEEPEST = 5  # dicts around the weights
SCALE = "logit_scale"
# words that wrappers put anywhere into the names of what they wrap
WRAPPERS = {
    "module",  # DataParallel, DistributedDataParallel, DeepSpeed, AveragedModel
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # Lightning Fabric
}
# keys of dicts that are no weights of the model itself
AVERAGES = ("ema", "averag", "swa", "shadow", "teacher", "momentum")
TRAINING = ("optim", "sched", "scaler", "callback", "loop", "hyper_param", "config", "args", "rng")
# tensors that wrappers keep beside what they wrap
BESIDE = {"n_averaged"}

_T = TypeVar("_T")


def find_weights(content: Any, where: str) -> dict[str, Described | int | float]:
    """The one dict of weights in what a file holds: tensors, or plain numbers, by their names.

    Raises ShotfitError if there is none, or if there are several of equal right.
    """
    if isinstance(content, Opaque):
        raise ShotfitError(
            f"{where} holds no state dict but a whole object ({kind_of(content)}): save model.state_dict() and name "
            "that file."
        )
    weights = _descend(content, where, 0)
    if type(weights) is not dict or not weights:
        raise ShotfitError(f"{where} holds no state dict: expected tensors by name, or those under 'state_dict'.")
    # what torch keeps for layers with a state of their own is none of the towers'
    weights = {name: value for name, value in weights.items() if not str(name).endswith("._extra_state")}
    odd = [
        _shown(name)
        for name, value in weights.items()
        if not isinstance(name, str) or not isinstance(value, (Described, int, float))
    ]
    if odd:
        raise ShotfitError(f"{where} holds no state dict: {listing(odd).partition(': ')[2]} is no tensor.")
    return weights


def _descend(content: Any, where: str, depth: int) -> Any:
    if type(content) is not dict or depth > DEEPEST:
        return content
    # the towers' own names may be those of the dict itself, with something else beside them
    if any(isinstance(value, Described) and _last(name) == SCALE for name, value in content.items()):
        return content
    holds, scaled = _Search(lambda _: True), _Search(lambda name: _last(name) == SCALE)
    inner = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and not _has(name, TRAINING) and holds.in_dict(value)
    }
    if not inner:
        return content
    own = {name: value for name, value in inner.items() if not _has(name, AVERAGES)} or inner
    chosen = {name: value for name, value in own.items() if scaled.in_dict(value)} or own
    if len(chosen) > 1:
        raise ShotfitError(
            f"{where} holds several models ({first_few([_shown(name) for name in chosen])}): save the weights of the "
            "one that you mean in a file of its own."
        )
    return _descend(next(iter(chosen.values())), where, depth + 1)


class _Search:
    """Whether a dict, or one inside, holds a tensor of a name. Each dict is looked at once, however often it stands."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self.wanted = wanted
        self.seen: dict[int, bool] = {}

    def in_dict(self, value: Any, depth: int = 0) -> bool:
        if type(value) is not dict or depth > DEEPEST:
            return False
        if id(value) not in self.seen:
            self.seen[id(value)] = False  # while it is looked at: dicts may contain each other
            self.seen[id(value)] = any(
                (isinstance(inner, Described) and self.wanted(name)) or self.in_dict(inner, depth + 1)
                for name, inner in value.items()
                if isinstance(name, str)
            )
        return self.seen[id(value)]


def bare_names(tensors: Mapping[str, _T], where: str) -> dict[str, _T]:
    """The towers' tensors by their own names: without the words of wrappers, and without the name of what holds them.

    Tensors beside the towers (a head, a loss) are left out where the towers have a name in front of theirs.

    Example:
        >>> bare_names({"model.visual._orig_mod.proj": 1, "model.logit_scale": 2, "head.weight": 3}, "last.ckpt")
        {'visual.proj': 1, 'logit_scale': 2}
    """
    named: dict[str, _T] = {}
    for name, value in tensors.items():
        bare = ".".join(word for word in name.split(".") if word not in WRAPPERS)
        if bare in named:
            raise ShotfitError(f"{where} holds {_shown(bare)} twice, with and without the words of a wrapper.")
        named[bare] = value
    prefixes = [name.removesuffix(SCALE) for name in named if _last(name) == SCALE]
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if not _has(prefix, AVERAGES)] or prefixes
    if len(prefixes) > 1:
        shown = first_few([_shown(prefix) or "no name in front" for prefix in prefixes])
        raise ShotfitError(
            f"{where} holds several models ({shown}): save the weights of the one that you mean in a file of its own."
        )
    prefix = prefixes[0] if prefixes else ""
    if prefix:
        return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    return {name: value for name, value in named.items() if name not in BESIDE}


def _last(name: Any) -> str:
    return name.rpartition(".")[2] if isinstance(name, str) else ""


def _has(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)


def _shown(name: object) -> str:
    return printable(cut(name if isinstance(name, str) else kind_of(name), 80))


def listing(names: Any, shown: int = 3) -> str:
    """Some names in a sentence: the first few and how many more, with the count in front."""
    names = [_shown(name) for name in names]
    return f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'}: {first_few(names, shown)}"

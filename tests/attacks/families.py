"""All families of attacks, by name."""

from __future__ import annotations

from tests.attacks import exports, pickles, tiffs, tokenizers
from tests.attacks.checkpoints import CHECKPOINTS
from tests.attacks.environment import ENVIRONMENT
from tests.attacks.folders import FOLDERS
from tests.attacks.images import IMAGES
from tests.attacks.tasks import TASKS

__all__ = ["FAMILIES"]

MORE = (exports, pickles, tiffs, tokenizers)  # they add their kinds to those of tasks, checkpoints and images
FAMILIES = {family.name: family for family in (IMAGES, CHECKPOINTS, FOLDERS, TASKS, ENVIRONMENT)}

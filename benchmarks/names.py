"""Class names as texts of ordinary length for timings: Caltech101's in CoOp's split, and three more tasks'.

TASKS: 200 classes in four tasks. ImageNet's 1,000 names are read from a file (`imagenet_names`).
"""

from __future__ import annotations

import csv
from pathlib import Path

from shotfit.data.tasks import ClassList
from shotfit.errors import ShotfitError

__all__ = ["CALTECH101", "TASKS", "imagenet_names"]

IMAGENET = Path("../shared/data/imagenet1k.csv")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.replace("\n", " ").strip().split(", "))


def imagenet_names(file: Path = IMAGENET) -> tuple[str, ...]:
    """The column `name` of a table with ImageNet's classes. Raises ShotfitError where there is none."""
    if not file.is_file():
        raise ShotfitError(f"{file} does not exist: a table with a column `name`, one class of ImageNet a row.")
    with file.open(newline="", encoding="utf-8") as table:
        return tuple(row["name"] for row in csv.DictReader(table))


CALTECH101 = _names(
    """
face, leopard, motorbike, accordion, airplane, anchor, ant, barrel, bass, beaver, binocular, bonsai, brain,
brontosaurus, buddha, butterfly, camera, cannon, car side, ceiling fan, cellphone, chair, chandelier, cougar body,
cougar face, crab, crayfish, crocodile, crocodile head, cup, dalmatian, dollar bill, dolphin, dragonfly, electric
guitar, elephant, emu, euphonium, ewer, ferry, flamingo, flamingo head, garfield, gerenuk, gramophone, grand piano,
hawksbill, headphone, hedgehog, helicopter, ibis, inline skate, joshua tree, kangaroo, ketch, lamp, laptop, llama,
lobster, lotus, mandolin, mayfly, menorah, metronome, minaret, nautilus, octopus, okapi, pagoda, panda, pigeon,
pizza, platypus, pyramid, revolver, rhino, rooster, saxophone, schooner, scissors, scorpion, sea horse, snoopy,
soccer ball, stapler, starfish, stegosaurus, stop sign, strawberry, sunflower, tick, trilobite, umbrella, watch,
water lilly, wheelchair, wild cat, windsor chair, wrench, yin yang
"""
)

SIGNS = _names(
    """
speed limit 20, speed limit 30, speed limit 50, speed limit 60, speed limit 70, speed limit 80, end of speed limit 80,
speed limit 100, speed limit 120, no passing, no passing for trucks, right of way at next intersection, priority road,
yield, stop, no vehicles, no trucks, no entry, general caution, dangerous curve left, dangerous curve right, double
curve, bumpy road, slippery road, road narrows on the right, road work, traffic signals, pedestrians, children crossing,
bicycles crossing, beware of ice or snow, wild animals crossing, end of all limits, turn right ahead, turn left ahead,
ahead only, go straight or right, go straight or left, keep right, keep left, roundabout mandatory, end of no passing,
end of no passing for trucks
"""
)
FLOWERS = _names(
    """
daffodil, snowdrop, lily of the valley, bluebell, crocus, iris, tigerlily, tulip, fritillary, sunflower, daisy,
coltsfoot, dandelion, cowslip, buttercup, windflower, pansy
"""
)
TEXTURES = _names(
    """
banded, blotchy, braided, bubbly, bumpy, chequered, cobwebbed, cracked, crosshatched, crystalline, dotted, fibrous,
flecked, freckled, frilly, gauzy, grid, grooved, honeycombed, interlaced, knitted, lacelike, lined, marbled, matted,
meshed, paisley, perforated, pitted, pleated, polka-dotted, porous, potholed, scaly, smeared, spiralled, sprinkled,
stained, stratified, striped
"""
)
TASKS = (
    ClassList("caltech101", CALTECH101),
    ClassList("traffic signs", SIGNS),
    ClassList("flowers", FLOWERS),
    ClassList("textures", TEXTURES),
)

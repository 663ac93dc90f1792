"""The class names of Caltech101 in CoOp's split, as texts of ordinary length for timings."""

CALTECH101 = (
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
    .replace("\n", " ").strip().split(", ")
)  # fmt: skip

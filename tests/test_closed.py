"""Closed encoders: the contract that they are held to, what they serve, and whose word opens them."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import shotfit
from shotfit.checkpoints.closed import close, is_closed
from shotfit.checkpoints.libraries import OpenClip
from shotfit.checkpoints.weights import is_known, load_backbone, load_in, save_backbone
from shotfit.commands.cli import COMMANDS, app_of, main
from shotfit.data.images import open_image
from shotfit.engine.frozen import Frozen, ImagePool
from shotfit.engine.store import MemoryStore, Store
from shotfit.errors import ShotfitError, UsageError
from shotfit.fitting.folder import in_record, out_of_record
from shotfit.fitting.jobs import Embedding
from shotfit.methods import METHODS, find
from shotfit.testing.tiny import tiny_backbone, tiny_task

from .encoders import EMBED, Both, write_file
from .originals import open_clip

ON_FEATURES = [
    "zero_shot", "linear_probe", "nearest_centroid", "knn", "cross_modal", "clip_adapter", "tip_adapter",
    "tip_adapter_f", "gda", "proker", "lp_plus_plus", "zs_lp", "clap", "taskres", "dualadapter",
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOTFIT_CACHE", str(tmp_path / "cache"))


# What they serve


@pytest.mark.parametrize("method", ON_FEATURES)
def test_method_on_features_fits_saves_and_opens(method: str, tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "images")
    model = shotfit.fit(task, method, backbone=Both(), shots=2, recipe="paper", views="center", keep=True)
    model.save(tmp_path / "model")
    again = shotfit.load(tmp_path / "model", backbone=Both())
    images = sorted((tmp_path / "images").rglob("*.png"))
    assert np.array_equal(model.predict_proba(images), again.predict_proba(images))


@pytest.mark.parametrize("method", sorted({*METHODS} - {*ON_FEATURES, "prolip"}))
def test_method_that_changes_towers_is_refused_by_name(method: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{method} changes the towers inside, and object:Both is closed: choose"):
        shotfit.fit(tiny_task(tmp_path / "images"), method, backbone=Both(), shots=2, recipe="paper")


def test_every_method_says_whether_it_changes_towers() -> None:
    assert {name for name in METHODS if not find(name).edits_towers} == {*ON_FEATURES, "prolip"}


def test_method_that_ends_a_tower_early_works_behind_its_features(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "images")
    with pytest.raises(UsageError, match=r"that of object:Both has none: choose another .*--set side=features"):
        shotfit.fit(task, "prolip", backbone=Both(), shots=2, recipe="paper")
    shotfit.fit(task, "prolip", backbone=Both(), shots=2, recipe="paper", options={"side": "features"})


def test_features_are_the_encoder_s_own(tmp_path: Path) -> None:
    (item, *_), own = tiny_task(tmp_path / "images").train, Both()
    frozen = Frozen(close(own), MemoryStore())
    expected = own.encode_images(own.preprocess(open_image(item.picture))[None].repeat(2, 1, 1, 1))[:1]
    assert torch.equal(frozen.image(ImagePool([item]).all()), expected)
    texts = ["a photo of a Fluß.", ""]
    assert torch.equal(frozen.text(frozen.encode(texts)), own.encode_texts(texts))


def test_training_views_are_cut_out_before_the_encoder_s_preprocessing(tmp_path: Path) -> None:
    task = tiny_task(tmp_path / "images")
    frozen = Frozen(close(Both()), MemoryStore())
    views = frozen.image(ImagePool(task.train, views=2).take(torch.tensor([0, 0]), torch.tensor([0, 1])))
    assert views.shape == (2, EMBED)
    assert not torch.allclose(views[0], views[1])


def test_second_fit_encodes_nothing(tmp_path: Path) -> None:
    task, store = tiny_task(tmp_path / "images"), Store(tmp_path / "store")
    shotfit.fit(task, "tip_adapter", backbone=Both(), store=store)

    class Silent(Both):
        seen = 0

        def encode_images(self, pixels: Tensor) -> Tensor:
            Silent.seen += 1
            return super().encode_images(pixels)

    backbone, examined = close(Silent()), Silent.seen
    shotfit.fit(task, "tip_adapter", backbone=backbone, store=store)
    assert Silent.seen == examined


def test_race_leaves_out_no_entrant(tmp_path: Path) -> None:
    model = shotfit.fit(tiny_task(tmp_path / "images"), backbone=Both(), shots=3)
    assert not [row for row in model.record["race"] if "refused" in row]


# The fingerprint


def other_letters(texts: list[str]) -> Tensor:
    return Both().encode_texts([f"an image of {text}" for text in texts])


@pytest.mark.parametrize(
    "changed",
    [
        {"matrix": Both().matrix * (1 + 1e-3)},
        {"logit_scale": 4.0},
        {"encode_texts": other_letters},
        {"preprocess": lambda image: Both().preprocess(image.resize((8, 8), Image.Resampling.NEAREST))},
        {"preprocess": lambda image: Both().preprocess(image) / 2},
    ],
    ids=["a weight", "temperature", "another beginning", "another filter", "another deviation"],
)
def test_another_encoder_has_another_fingerprint(changed: dict[str, Any]) -> None:
    assert close(Both(**changed)).fingerprint != close(Both()).fingerprint == close(Both()).fingerprint


def test_fingerprint_outlives_the_last_digits_of_another_processor() -> None:
    def rounded(pixels: Tensor) -> Tensor:
        return Both().encode_images(pixels) * (1 + 1e-6 * torch.randn(EMBED))

    assert close(Both(encode_images=rounded)).fingerprint == close(Both()).fingerprint


def test_without_state_dict_the_answers_tell(tmp_path: Path) -> None:
    class Bare:
        def __init__(self, own: Both) -> None:
            self.embed, self.logit_scale, self.preprocess = own.embed, own.logit_scale, own.preprocess
            self.encode_images, self.encode_texts = own.encode_images, own.encode_texts

    same, other = Bare(Both()), Bare(Both(matrix=Both().matrix.flip(0)))
    assert close(same).fingerprint == close(Bare(Both())).fingerprint != close(other).fingerprint


# The contract

BROKEN: dict[str, tuple[dict[str, Any], str]] = {  # what is changed of `Both`, and what is said
    "random": ({"encode_images": lambda p: Both().encode_images(p) + torch.rand(1)}, r"two results of one input: call"),
    "batch": ({"encode_images": lambda p: Both().encode_images(p - p.mean(0) / 2)}, r"depends on what else is in its batch"),
    "padding": ({"encode_texts": lambda t: Both().encode_texts([x.ljust(max(map(len, t))) for x in t])}, r"mask padding"),
    "constant": ({"encode_texts": lambda t: torch.ones(len(t), EMBED)}, r"the same feature for every input"),
    "whole numbers": ({"encode_texts": lambda t: torch.ones(len(t), EMBED, dtype=torch.int64)}, r"gave torch.int64; exp"),
    "no tensor": ({"encode_images": lambda p: [0.0]}, r"encode_images gave list; expected a tensor"),
    "shape": ({"encode_images": lambda p: Both().encode_images(p)[0]}, r"gave \[24\] for 4 inputs"),
    "width": ({"encode_images": lambda p: Both().encode_images(p)[:, :5]}, r"image features of 5 and text features of 24"),
    "embed": ({"embed": 512}, r"says embed 512, but gives"),
    "NaN": ({"encode_texts": lambda t: Both().encode_texts(t) / 0}, r"not finite, or nothing but zeros"),
    "temperature": ({"logit_scale": 100.0}, r"logit_scale is 100; expected the natural logarithm .* \(4\.6052 for 100\)"),
    "no number": ({"logit_scale": "many"}, r"logit_scale is no number"),
    "image": ({"preprocess": lambda image: image}, r"preprocess gave a Image, where pixels \[3, height, width\]"),
    "sizes": ({"preprocess": lambda i: torch.zeros(3, i.height, i.width)}, r"of two pictures; all are to be of one size"),
    "augmented": ({"preprocess": lambda image: torch.rand(3, 8, 8)}, r"two results of one picture: leave out what is rand"),
    "huge": ({"preprocess": lambda image: torch.zeros(3, 1, 10_000)}, r"sides are 2,048 at most"),
    "raises": ({"encode_texts": lambda t: t.no}, r"encode_texts failed with AttributeError: 'list' object has no"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_contract_is_a_sentence(what: str) -> None:
    changed, said = BROKEN[what]
    with pytest.raises(ShotfitError, match=said) as caught:
        close(Both(**changed))
    assert str(caught.value).startswith("object:Both")


def test_object_without_a_part_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"^fit: backbone is a object; expected a text, a shotfit Backbone or"):
        shotfit.fit("nowhere", backbone=object())  # type: ignore[arg-type]
    with pytest.raises(ShotfitError, match="has no encode_texts: encoders have"):
        close(type("Half", (), {"logit_scale": 1.0, "embed": 2, **{n: vars(Both()).get(n) or getattr(Both(), n) for n in
              ("preprocess", "encode_images")}})())  # fmt: skip


def test_an_encoder_that_changes_its_shape_later_is_a_sentence() -> None:
    own = Both()
    frozen = Frozen(close(own), MemoryStore())
    own.letters = own.letters[:, :3]
    with pytest.raises(ShotfitError, match=r"encode_texts gave \[1, 3\], where \[1, 24\] is expected"):
        frozen.text(frozen.encode(["late"]))


# Names, and whose word opens them


def test_names_of_closed_encoders() -> None:
    names = ["my.py:make", "/a b/my.py:make", "open_clip:ViT-B-32@openai", "transformers:google/siglip", "object:Mine"]
    assert all(is_closed(name) and not is_known(name) for name in names)
    assert not any(map(is_closed, ["ViT-B/32", "owner/name@main", "my.py", "./folder", "C:"]))


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """A model on encoders of a file."""
    file = write_file(tmp_path / "code")
    task = tiny_task(tmp_path / "images")
    model = shotfit.fit(task, "tip_adapter", backbone=f"{file}:both", shots=2)
    return model.save(tmp_path / "model")


def test_command_line_fits_and_predicts_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path)
    tiny_task(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    out = ["--out", "model", "--backbone", "mine.py:both"]
    done = CliRunner().invoke(app_of(COMMANDS), ["fit", "images", "--method", "zero_shot", *out])
    assert done.exit_code == 0, done.output
    image = next(Path("images").rglob("*.png"))
    assert "mine.py:both" in (tmp_path / "model" / "adapter.json").read_text()
    assert str(tmp_path) not in (tmp_path / "model" / "adapter.json").read_text()
    predicted = CliRunner().invoke(app_of(COMMANDS), ["predict", "model", str(image), "--backbone", "mine.py:both"])
    assert predicted.exit_code == 0, predicted.output


@pytest.mark.parametrize("trusted", [False, True])
def test_no_model_runs_a_file_of_code(fitted: Path, tmp_path: Path, trusted: bool) -> None:
    (tmp_path / "code" / "mine.py").write_text("raise RuntimeError('it ran')\n")
    with pytest.raises(
        UsageError, match=r"a file of code makes, which is run only if you name it: add --backbone .*mine"
    ):
        shotfit.load(fitted, trust_backbone=trusted)


def test_model_opens_where_the_user_names_the_file(fitted: Path, tmp_path: Path) -> None:
    elsewhere = write_file(tmp_path / "moved")
    assert shotfit.load(fitted, backbone=f"{elsewhere}:both").frozen.backbone.name == f"{elsewhere}:both"


def test_model_on_other_encoders_is_refused(fitted: Path) -> None:
    with pytest.raises(ShotfitError, match="but object:Both has fingerprint"):
        shotfit.load(fitted, backbone=Both(logit_scale=1.0))


def test_model_of_an_object_names_what_opens_it(tmp_path: Path) -> None:
    model = shotfit.fit(tiny_task(tmp_path / "images"), "tip_adapter", backbone=Both())
    model.save(tmp_path / "model")
    with pytest.raises(UsageError, match=r"fitted on an object of Python \(Both\): open it there with shotfit.load"):
        shotfit.load(tmp_path / "model", trust_backbone=True)


def test_model_of_a_library_s_encoder_opens_by_the_user_s_word(fitted: Path) -> None:
    record = (fitted / "adapter.json").read_text()
    start = record.index('"name": "', record.index('"backbone"')) + len('"name": "')
    changed = record[:start] + "open_clip:ViT-B-32@openai" + record[record.index('"', start) :]
    (fitted / "adapter.json").write_text(changed)
    with pytest.raises(
        UsageError, match=r"open_clip:ViT-B-32@openai, which another library loads, and that only if you"
    ):
        shotfit.load(fitted)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mine.py:nothing", r"The encoder nothing is to be taken from mine\.py, which has no such name"),
        ("mine.py:number", r"mine\.py:number is a int; expected a function that gives the encoder"),
        ("none.py:make", r"The encoder make is to be taken from none\.py, which is not there"),
        ("mine.py:images", r"has no logit_scale: encoders have"),
        ("open_clip:", r"open_clip: names no model"),
        ("open_clip:ViT-B-32", r"names no weights: write open_clip:NAME@WEIGHTS; weights of ViT-B-32: openai"),
        ("open_clip:ViT-Z-99@openai", r"cannot be loaded by open_clip \("),
        ("timm:resnet18", r"timm:resnet18 encodes images alone: join it with another first, by `shotfit align`"),
        ("object:Mine", r"object:Mine is an object of the Python that it was made in"),
    ],
)
def test_name_that_gives_no_backbone_is_a_sentence(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShotfitError, match=said):
        load_backbone(name)


def test_missing_library_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"needs open_clip, which is not installed: pip install 'shotfit\[encoders\]'"):
        load_backbone("open_clip:ViT-B-32@openai")


# What cannot be with closed encoders


def test_other_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="computes as its own code does: leave --precision out"):
        load_in(Both(), "bfloat16")
    assert load_in(Both(), "float32").dtype == torch.float32


def test_object_goes_to_no_other_process_and_a_file_does(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is an object of this Python, which cannot go to another process: write"):
        pickle.dumps(close(Both()))
    backbone = load_backbone(f"{write_file(tmp_path)}:both")
    assert pickle.loads(pickle.dumps(backbone)).fingerprint == backbone.fingerprint
    (tmp_path / "mine.py").write_text("from tests.encoders import Both\n\ndef both(): return Both(logit_scale=1.0)\n")
    with pytest.raises(ShotfitError, match="is another backbone in this process"):
        pickle.loads(pickle.dumps(backbone))


def test_parts_export_and_saved_weights_are_refused(fitted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"object:Both is closed: write one file in place of a folder"):
        Embedding(Both())
    model = shotfit.load(fitted, backbone=Both())
    with pytest.raises(UsageError, match=r"is closed, and only shotfit's own towers are exported"):
        shotfit.export_model(model, "classifier", tmp_path / "export")
    with pytest.raises(UsageError, match=r"is closed: its weights are its own library's to save"):
        save_backbone(load_backbone(Both()), tmp_path / "weights")


def test_show_and_doctor_take_closed_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{write_file(tmp_path)}:both"
    tiny_task(tmp_path / "images")
    assert main(["show", "tip_adapter_f", "--backbone", name]) == 0
    assert "all frozen: its features are computed once and stored" in capsys.readouterr().out
    assert main(["show", "coop", "--backbone", name]) == 2
    assert "coop changes the towers inside" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "images"), "--backbone", name]) == 0
    assert main(["verify", str(tmp_path / "images")]) == 3


# The libraries, by what they make themselves


def test_open_clip_s_own_model(tmp_path: Path) -> None:
    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-clip.json").write_text(json.dumps(tiny))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.manual_seed(0)
    model, _, prepare = open_clip.create_model_and_transforms("tiny-clip")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    backbone = load_backbone(f"open_clip:tiny-clip@{tmp_path / 'weights.pt'}")
    frozen = Frozen(backbone, MemoryStore())
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer("tiny-clip")(["a dog", "a cat"]))
    assert torch.equal(frozen.text(frozen.encode(["a dog", "a cat"])), expected)
    item = tiny_task(tmp_path / "images").train[0]
    with torch.no_grad():
        expected = model.encode_image(prepare(open_image(item.picture))[None].repeat(2, 1, 1, 1))[:1]
    assert torch.allclose(frozen.image(ImagePool([item]).all()), expected, atol=1e-6)


REDUCED: dict[str, dict[str, Any]] = {
    "CoCa": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16,
                       "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "embed_cls": True,
                     "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
                           "attn_pooler_heads": 2},
        "custom_text": True,
    },
    "ConvNeXt": {
        "embed_dim": 16,
        "vision_cfg": {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
                       "timm_proj": "linear", "image_size": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "ResNet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
}  # fmt: skip


@pytest.mark.parametrize("family", REDUCED)
def test_families_of_open_clip_that_shotfit_has_no_towers_for(family: str, tmp_path: Path) -> None:
    (tmp_path / f"tiny-{family}.json").write_text(json.dumps(REDUCED[family]))
    open_clip.add_model_config(tmp_path / f"tiny-{family}.json")
    torch.manual_seed(0)
    made = open_clip.create_model_and_transforms(f"tiny-{family}")
    backbone = close(OpenClip(made[0], made[2], open_clip.get_tokenizer(f"tiny-{family}")))
    assert backbone.embed == 16
    model = shotfit.fit(tiny_task(tmp_path / "images"), "tip_adapter", backbone=backbone, shots=2)
    assert len(model.predict_proba(sorted((tmp_path / "images").rglob("*.png")))) == 18


def test_transformers_own_folder_gives_what_shotfit_s_towers_give(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tiny_backbone(tmp_path)  # for its tokenizer.json
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    text = {"vocab_size": 258, "max_position_embeddings": 40, "hidden_size": 16, **special}
    both = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 32, "image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text | both, vision_config=vision | both, projection_dim=24)
    torch.manual_seed(1)
    folder = tmp_path / "theirs"
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<start>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
    closed, own = (Frozen(load_backbone(name), MemoryStore()) for name in (f"transformers:{folder}", str(folder)))
    texts = ["a dog", "a photo of a cat."]
    assert torch.allclose(closed.text(closed.encode(texts)), own.text(own.encode(texts)), atol=1e-5)
    images = ImagePool(tiny_task(tmp_path / "images").train).all()
    # transformers resizes tensors where torchvision is there, and rounds grey levels otherwise than Pillow
    assert torch.allclose(closed.image(images), own.image(images), atol=5e-3)


def test_a_tiny_backbone_of_shotfit_s_own_is_not_closed(tmp_path: Path) -> None:
    assert not tiny_backbone(tmp_path).closed


def test_models_hold_no_folder_of_this_machine(tmp_path: Path) -> None:
    folder, place = tmp_path / "models" / "one", str(tmp_path / "my")
    for name in (f"{place}/code.py:make", f"transformers:{place}/clip", f"open_clip:ViT-B-32@{place}/w.pt",
                 f"{place}/joined+{place}/a.py:images+sentence-transformers:{place}/mini"):  # fmt: skip
        recorded = in_record(name, folder)
        assert str(tmp_path) not in recorded and "../../my" in recorded
        assert out_of_record(recorded, folder) == name
    assert in_record("open_clip:ViT-B-32@openai", folder) == "open_clip:ViT-B-32@openai"

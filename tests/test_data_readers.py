"""Folders, manifests and split files become tasks; what cannot is refused in a sentence."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shotfit.data.held_out import held_out_share
from shotfit.data.pictures import Picture
from shotfit.data.readers import read_task
from shotfit.data.tasks import Item, Task
from shotfit.errors import ShotfitError, UsageError

from .pictures import save, tree

DIGESTS = st.integers(0, 40).map("{:064x}".format)
ITEMS = st.lists(st.tuples(st.integers(0, 3), DIGESTS), max_size=60).map(
    lambda rows: [Item(Picture(Path(f"/{i}.png")), label, digest) for i, (label, digest) in enumerate(rows)]
)


def every(task: Task) -> list[Item]:
    return [*task.train, *task.val, *task.test]


# Class folders


def test_class_folders_are_classes_sorted_by_name(tmp_path: Path) -> None:
    task = read_task(tree(tmp_path, dog=3, cat=2, Bird=2))
    assert task.classes.names == ("Bird", "cat", "dog")
    assert task.reader == "class folders"


def test_files_are_sorted_by_name_within_a_class(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "B.JPG", "c.webp"):
        save(tmp_path / "train" / "cat" / name)
        save(tmp_path / "test" / "cat" / name, seed=7)
    assert [item.picture.path.name for item in read_task(tmp_path).train] == ["B.JPG", "a.png", "b.png", "c.webp"]


def test_labels_and_digests_belong_to_the_files(tmp_path: Path) -> None:
    task = read_task(tree(tmp_path, cat=3, dog=3))
    assert all(item.picture.path.parent.name == task.classes.names[item.label] for item in every(task))
    assert len({item.digest for item in every(task)}) == 6


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_part_folders_become_parts(tmp_path: Path, val: str) -> None:
    for part, count in (("train", 4), (val, 2), ("test", 3)):
        tree(tmp_path / part, cat=count, dog=count)
    task = read_task(tmp_path)
    assert (len(task.train), len(task.val), len(task.test)) == (8, 4, 6)
    assert task.reader == f"class folders under train/, {val}/ and test/"
    assert task.test_origin == "the folder test/"


def test_two_folders_for_one_part_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val", "valid"):
        tree(tmp_path / part, cat=1)
    with pytest.raises(ShotfitError, match="two val folders, val and valid"):
        read_task(tmp_path)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    assert read_task(tree(tmp_path, bus=2, train=2)).classes.names == ("bus", "train")


def test_a_test_part_alone_is_a_task(tmp_path: Path) -> None:
    tree(tmp_path / "test", cat=2, dog=2)
    task = read_task(tmp_path)
    assert (len(task.train), len(task.test)) == (0, 4)


def test_class_that_only_one_part_has_is_a_class(tmp_path: Path) -> None:
    tree(tmp_path / "train", cat=2)
    tree(tmp_path / "test", cat=1, dog=1)
    task = read_task(tmp_path)
    assert task.classes.names == ("cat", "dog")
    assert sorted(item.label for item in task.test) == [0, 1]


def test_empty_class_folder_stays_a_class(tmp_path: Path) -> None:
    assert read_task(tree(tmp_path, cat=2, dog=0)).classes.names == ("cat", "dog")


def test_other_files_are_ignored_and_listed(tmp_path: Path) -> None:
    tree(tmp_path, cat=2, dog=1)
    for name in ("list.csv", "cat/notes.txt", ".DS_Store", "cat/.hidden.png"):
        (tmp_path / name).write_text("x")
    save(tmp_path / "cat" / "more" / "a.png")
    save(tmp_path / "loose.png")
    task = read_task(tmp_path)
    assert len(every(task)) == 4
    (note,) = task.notes
    assert note.startswith("1 images lie in folders inside of class folders and belong to these classes, e.g. ")
    assert [str(path.relative_to(tmp_path)) for path in task.ignored] == [
        "cat/notes.txt",
        "list.csv",
        "loose.png",
    ]


def test_folders_beside_the_parts_are_ignored_and_listed(tmp_path: Path) -> None:
    tree(tmp_path / "train", cat=5)
    (tmp_path / "annotations").mkdir()
    save(tmp_path / "test" / "unlabeled.png")
    task = read_task(tmp_path)
    assert task.classes.names == ("cat",)
    assert {path.name for path in task.ignored} == {"annotations", "test"}


def test_folder_of_domains_is_refused(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        tree(tmp_path / domain, dog=1, horse=1)
    with pytest.raises(ShotfitError, match=r"domains \(photo, sketch\).*pass one domain, e\.g\. .*photo, or --read"):
        read_task(tmp_path)


def test_folders_by_date_beside_a_table_name_the_table(tmp_path: Path) -> None:
    for day in ("05/01", "05/17", "06/03"):
        save(tmp_path / "2024" / day / "a.png")
    (tmp_path / "species.csv").write_text("file;species\n2024/05/01/a.png;wren\n")
    with pytest.raises(ShotfitError, match=r"or .*species\.csv if that file has the labels\.$"):
        read_task(tmp_path)


def test_folder_of_domains_with_parts_is_refused(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        tree(tmp_path / domain / "train", dog=1)
    with pytest.raises(ShotfitError, match="pass one domain"):
        read_task(tmp_path)


def test_domains_below_the_parts_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for domain in ("photo", "sketch"):
            tree(tmp_path / part / domain, dog=1, horse=1)
    with pytest.raises(ShotfitError, match="pass one domain"):
        read_task(tmp_path)


def test_stray_picture_makes_no_class_of_a_domain(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        tree(tmp_path / domain, dog=1, horse=1)
    save(tmp_path / "photo" / "overview.png")
    with pytest.raises(ShotfitError, match="pass one domain"):
        read_task(tmp_path)


def test_folder_of_loose_images_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(ShotfitError, match=r"holds no class folders \(1 images lie directly in it\); expected .*CLASS"):
        read_task(tmp_path)


def test_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match="photos does not exist"):
        read_task(tmp_path / "photos")


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    with pytest.raises(ShotfitError, match="neither a folder nor a file of a format"):
        read_task(path)


def test_images_folder_goes_with_lists_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goes with a manifest or a split file"):
        read_task(tree(tmp_path, cat=2), images=tmp_path)


def test_links_to_classes_and_images_are_followed(tmp_path: Path) -> None:
    tree(tmp_path / "store", cat=3)
    (tmp_path / "photos" / "dog").mkdir(parents=True)
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "photos" / "dog" / "a.png").symlink_to(tmp_path / "store" / "cat" / "000.png")
    task = read_task(tmp_path / "photos")
    assert Counter(item.label for item in every(task)) == {0: 3, 1: 1}


def test_links_that_loop_are_listed_and_not_followed(tmp_path: Path) -> None:
    tree(tmp_path, cat=2)
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "cat" / "up").symlink_to("..")
    (tmp_path / "cat" / "self.png").symlink_to("self.png")
    (tmp_path / "cat" / "x.png").symlink_to("y.png")
    (tmp_path / "cat" / "y.png").symlink_to("x.png")
    task = read_task(tmp_path)
    assert len(every(task)) == 2
    assert [path.name for path in task.loops] == ["again", "self.png", "up", "x.png", "y.png"]


def test_non_ascii_names_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "猫" / "č.png")
    task = read_task(tmp_path)
    assert task.classes.names == ("猫",)
    assert every(task)[0].picture.path == tmp_path / "猫" / "č.png"


def test_name_is_that_of_the_folder_even_through_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "photos", cat=2)
    monkeypatch.chdir(tmp_path / "photos" / "cat")
    task = read_task(Path(".."))
    assert task.name == "photos"
    assert all(item.picture.path.is_absolute() for item in task.train)


def test_unreadable_file_has_no_digest_and_is_never_held_out(tmp_path: Path) -> None:
    tree(tmp_path, cat=4)
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    task = read_task(tmp_path)
    assert [item.picture.path.name for item in task.train if not item.digest] == ["gone.png"]


# Folders that are no classes, and classes that are not where they are looked for


def test_part_in_a_folder_of_its_own_name_is_gone_through(tmp_path: Path) -> None:
    for part, count in (("seg_train", 3), ("seg_test", 2)):
        tree(tmp_path / part / part, sea=count, street=count)
    save(tmp_path / "seg_pred" / "seg_pred" / "1.png")
    task = read_task(tmp_path)
    assert task.classes.names == ("sea", "street")
    assert (len(task.train), len(task.test)) == (6, 4)
    assert [path.name for path in task.passed_over()] == ["1.png"]


@pytest.mark.parametrize(
    "names",
    [
        "train_images test_images",
        "TrainSet ValSet",
        "trainval test",
        "Dev train2017",
        "train_split1 test_split1",
        "train validate",
        "train_64x64 valid_64x64",
        "train1 holdout",
    ],
)
def test_part_folders_by_other_names_become_parts(tmp_path: Path, names: str) -> None:
    for part in names.split():
        tree(tmp_path / part, cat=1, dog=1)
    assert read_task(tmp_path).reader.startswith("class folders under ")


def test_single_pictures_beside_the_class_folders_of_a_part_do_not_lose_it(tmp_path: Path) -> None:
    for part in ("train", "test"):
        tree(tmp_path / part, cat=3, dog=3)
    for name in ("overview.png", "grid.png"):
        save(tmp_path / "train" / name)
    task = read_task(tmp_path)
    assert (len(task.train), len(task.test)) == (6, 6)
    assert [path.name for path in task.passed_over()] == ["grid.png", "overview.png"]


def test_folders_that_wrap_each_other_are_gone_through(tmp_path: Path) -> None:
    for part in ("train", "val"):
        tree(tmp_path / "download" / "birds-v2" / part, cat=2, dog=2)
    task = read_task(tmp_path)
    assert task.reader == "class folders under train/ and val/"
    assert task.notes == ("all of it lies in the folder download/", "all of it lies in the folder birds-v2/")


def test_nobody_is_sent_to_the_test_images_of_domains(tmp_path: Path) -> None:
    for domain in ("for_testing_only", "shop"):
        tree(tmp_path / domain, dog=1, horse=1)
    with pytest.raises(ShotfitError, match=r"pass one domain, e\.g\. .*/shop, or --read-as folders if shop is a class"):
        read_task(tmp_path)


def test_classes_beside_a_folder_of_annotations_are_found(tmp_path: Path) -> None:
    tree(tmp_path / "images", cat=2, dog=2)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "list.txt").write_text("x")
    task = read_task(tmp_path)
    assert task.classes.names == ("cat", "dog")
    assert task.notes == ("all of it lies in the folder images/",)


@pytest.mark.parametrize(
    "beside", ["labels.csv", "images/labels.csv", "annotations/list.txt", "images/labels.mat", "labels.npy"]
)
def test_flat_pictures_with_a_file_of_labels_are_refused_by_its_name(tmp_path: Path, beside: str) -> None:
    for name in ("cat1.png", "dog1.png"):
        save(tmp_path / "images" / name)
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_text("id,label\ncat1,cat\ndog1,dog\n")
    advice = "name that file" if beside.endswith("csv") else "save it as CSV with the first line path,label"
    with pytest.raises(ShotfitError, match=rf"no class folders .*{Path(beside).name}: {advice}"):
        read_task(tmp_path)


def test_parts_of_flat_pictures_are_no_classes(tmp_path: Path) -> None:
    tree(tmp_path, train=2, test1=2)
    (tmp_path / "models").mkdir()
    with pytest.raises(ShotfitError, match="lie directly in it, in no class folder"):
        read_task(tmp_path)
    assert read_task(tmp_path, read_as="folders").classes.names == ("models", "test1", "train")


def test_several_folders_of_pictures_that_a_table_labels_otherwise_are_no_classes(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / ["house", "cat"][number % 2] / f"ISIC_{number}.png")
    lines = "".join(f"ISIC_{number},{'nv' if number < 3 else 'mel'}\n" for number in range(6))
    (tmp_path / "metadata.csv").write_text(f"image_id,finding\n{lines}")
    assert read_task(tmp_path).classes.names == ("cat", "house")  # no column of labels that is known
    (tmp_path / "metadata.csv").write_text(f"image_id,label\n{lines}")
    with pytest.raises(ShotfitError, match=r"the folders are no classes: name that file \(.*metadata\.csv\)"):
        read_task(tmp_path)
    assert read_task(tmp_path, read_as="folders").classes.names == ("cat", "house")


def test_folders_that_no_class_is_called_are_refused_beside_a_file_of_labels(tmp_path: Path) -> None:
    tree(tmp_path, HAM_images_part_1=2, HAM_images_part_2=2)
    assert len(read_task(tmp_path).classes.names) == 2
    (tmp_path / "HAM_metadata.csv").write_text("image_id,dx\n")
    with pytest.raises(ShotfitError, match=r"no class folders .*HAM_metadata\.csv: name that file"):
        read_task(tmp_path)


def test_table_that_says_the_same_as_the_folders_is_no_matter(tmp_path: Path) -> None:
    tree(tmp_path, cat=1, dog=1)
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "dog" / "b.png")
    (tmp_path / "labels.csv").write_text("path,label\ncat/a.png,7\ndog/b.png,8\n")
    assert read_task(tmp_path).classes.names == ("cat", "dog")


def test_folders_are_classes_where_the_user_says_so(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        tree(tmp_path / kind, indoors=2, outdoors=2)
    with pytest.raises(ShotfitError, match="or --read-as folders if cat is a class"):
        read_task(tmp_path)
    task = read_task(tmp_path, read_as="folders")
    assert task.classes.names == ("cat", "dog")
    assert len(every(task)) == 8


def test_link_out_of_a_class_folder_is_followed_and_one_to_another_class_is_not(tmp_path: Path) -> None:
    tree(tmp_path / "store", more=3)
    tree(tmp_path / "photos", cat=2, dog=2)
    (tmp_path / "photos" / "cat" / "more").symlink_to(tmp_path / "store" / "more")
    (tmp_path / "photos" / "cat" / "dog").symlink_to(tmp_path / "photos" / "dog")
    assert Counter(item.label for item in every(read_task(tmp_path / "photos"))) == {0: 5, 1: 2}


# The share that is held out


def test_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    task = read_task(tree(tmp_path, cat=10, dog=4, owl=2, yak=1))
    assert Counter(item.label for item in task.test) == {0: 2, 1: 1, 2: 1}
    assert task.test_origin == "a fifth of each class, chosen by content"


def test_names_and_other_classes_do_not_change_what_is_held_out(tmp_path: Path) -> None:
    before = {item.digest for item in read_task(tree(tmp_path / "one", cat=12)).test}
    shutil.copytree(tmp_path / "one" / "cat", tmp_path / "two" / "tabby")
    tree(tmp_path / "two", dog=7)
    for i, path in enumerate(sorted((tmp_path / "two" / "tabby").iterdir())):
        path.rename(path.with_name(f"{100 - i}.png"))
    after = read_task(tmp_path / "two")
    assert {item.digest for item in after.test if item.label == 1} == before


@given(ITEMS)
def test_equal_content_never_lands_in_both_parts(items: list[Item]) -> None:
    train, test = held_out_share(items)
    assert not {item.digest for item in train} & {item.digest for item in test}
    assert sorted(train + test, key=items.index) == items


@given(ITEMS, ITEMS)
def test_content_of_val_or_of_two_classes_is_not_held_out(items: list[Item], val: list[Item]) -> None:
    _, test = held_out_share(items, val)
    assert not {item.digest for item in test} & {item.digest for item in val}
    for item in test:
        assert {other.label for other in items if other.digest == item.digest} == {item.label}


@given(st.permutations(range(23)))
def test_order_does_not_change_what_is_held_out(order: list[int]) -> None:
    items = [Item(Picture(Path(f"/{i}")), i % 2, f"{i * 7919 % 97:064x}") for i in range(23)]
    _, expected = held_out_share(items)
    _, test = held_out_share([items[i] for i in order])
    assert {item.digest for item in test} == {item.digest for item in expected}


@given(st.sets(DIGESTS, min_size=2, max_size=30), DIGESTS)
def test_an_added_image_displaces_at_most_one(digests: set[str], added: str) -> None:
    def held_out(found: set[str]) -> set[str]:
        return {item.digest for item in held_out_share([Item(Picture(Path("/")), 0, digest) for digest in found])[1]}

    assert len(held_out(digests) - held_out(digests | {added})) <= 1


# Names and templates


def test_number_on_every_class_is_order(tmp_path: Path) -> None:
    task = read_task(tree(tmp_path, **{"00_stop": 1, "01_no_passing": 1, "10_yield": 1}))
    assert task.classes.names == ("stop", "no_passing", "yield")


@pytest.mark.parametrize(
    "classes", [["00_stop", "yield"], ["2012_civic", "2012_yaris"], ["7_up"], ["1_2", "2_3"], ["n01", "n02"]]
)
def test_numbers_that_are_no_order_stay(tmp_path: Path, classes: list[str]) -> None:
    assert read_task(tree(tmp_path, **dict.fromkeys(classes, 1))).classes.names == tuple(classes)


def test_classes_file_overrides_names_and_template(tmp_path: Path) -> None:
    tree(tmp_path, **{"00_stop": 1, "01_no_passing": 1})
    (tmp_path / "classes.toml").write_text(
        'template = "a photo of a {} sign."\n[names]\n"01_no_passing" = "do not pass"\n'
    )
    task = read_task(tmp_path)
    assert task.classes.prompts() == [["a photo of a stop sign."], ["a photo of a do not pass sign."]]
    assert task.ignored == ()


def test_named_classes_file_goes_before_the_one_in_the_folder(tmp_path: Path) -> None:
    tree(tmp_path / "photos", cat=1)
    (tmp_path / "photos" / "classes.toml").write_text('[names]\ncat = "wrong"')
    (tmp_path / "mine.toml").write_text('template = "ensemble"\n[names]\ncat = "tabby"')
    classes = read_task(tmp_path / "photos", class_names=tmp_path / "mine.toml").classes
    assert classes.names == ("tabby",)
    assert len(classes.templates) == 8


def test_given_templates_go_before_those_of_the_file(tmp_path: Path) -> None:
    tree(tmp_path, cat=1)
    (tmp_path / "classes.toml").write_text('templates = ["a {}.", "the {}."]')
    assert read_task(tmp_path, templates=["one {}"]).classes.templates == ("one {}",)
    assert read_task(tmp_path).classes.templates == ("a {}.", "the {}.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("template = 3", "`template` is one text"),
        ("names = 3", r"\[names\] is a table"),
        ("[names]\ncat = 3", r"\[names\] is a table"),
        ('tempalte = "a {}"', "unknown key 'tempalte'"),
        ('template = "a"', "expected exactly once"),
        ('template = "a {}"\ntemplates = ["b {}"]', "both `template` and `templates`"),
        ("[names]\ncaat = 'x'", "names 'caat', which is no class here; did you mean 'cat'"),
        ("[names]\nzebra = 'x'", "which is no class here; the classes are cat"),
        ("[names]\ncat = ''", "empty name"),
        ("template =", "cannot be read"),
    ],
)
def test_malformed_classes_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    tree(tmp_path, cat=1)
    (tmp_path / "classes.toml").write_text(content)
    with pytest.raises(ShotfitError, match=said):
        read_task(tmp_path)


def test_missing_classes_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShotfitError, match=r"gone\.toml cannot be read"):
        read_task(tree(tmp_path, cat=1), class_names=tmp_path / "gone.toml")

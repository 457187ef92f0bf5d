"""A released pre-training folder becomes one prepared folder a domain, and is written back byte by byte.

The small folder is made here in the way of the released scripts (see `linguarec.data.readers.pretraining`), not by the
code under test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from linguarec.codes.codebook import ItemCodes
from linguarec.commands.export import export
from linguarec.commands.prepare import prepare_atomic
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import TEST, TRAIN, VALID
from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError

WIDTH, WINDOW = 16, 50
ITEMS = {"Food": 150, "CDs": 130, "Kindle": 90}
HEADER = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
INDEX = "FCK.OPQ4,IVF1,PQ4x8.strict.index"


@dataclass(frozen=True)
class Release:
    """What went into the folder: the whole sequences of each user, by domain and user number, and the vectors."""

    folder: Path
    sequences: list[dict[int, list[int]]]
    vectors: list[np.ndarray]
    dropped: list[np.ndarray]

    def training(self, domain: int) -> dict[int, list[int]]:
        """Items that rows of the training file show."""
        return {user: items[:-2] for user, items in self.sequences[domain].items() if len(items) > 3}

    def filtered(self, domain: int) -> list[int]:
        return sorted({item for items in self.training(domain).values() for item in items})


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Three domains; user 1 of the first has 60 items (cut histories), user 2 of each only 3 (no training row)."""
    generator = np.random.default_rng(3)
    folder = tmp_path / "FCK"
    folder.mkdir()
    sequences, vectors, dropped = [], [], []
    for number, items in enumerate(ITEMS.values()):
        lengths = [5, 60 if number == 0 else 9, 3, *generator.integers(4, 30, size=16).tolist()]
        # The last five items of each domain meet no user: they are in no row, but have vectors.
        sequences.append({user: generator.integers(items - 5, size=n).tolist() for user, n in enumerate(lengths)})
        vectors.append(generator.normal(size=(items, WIDTH)).astype(np.float32))
        dropped.append(generator.normal(size=(items, WIDTH)).astype(np.float32))
    made = Release(folder, sequences, vectors, dropped)
    lines = []
    for number, domain in enumerate(ITEMS):
        for user, items in made.training(number).items():
            for back in range(1, len(items)):
                history = " ".join(f"{number}-{item}" for item in items[:-back][-WINDOW:])
                lines.append(f"{number}-{user}\t{history}\t{number}-{items[-back]}\n")
        vectors[number].tofile(folder / f"{domain}.feat1CLS")
        dropped[number].tofile(folder / f"{domain}.feat2CLS")
    (folder / "FCK.train.inter").write_text(HEADER + "".join(lines))
    (folder / "FCK.pt_datasets").write_text(",".join(ITEMS) + "\n")
    ids = [f"{number}-{item}\n" for number in range(len(ITEMS)) for item in made.filtered(number)]
    (folder / "FCK.filtered_id").write_text("".join(ids))
    write_index(made)
    return made


def write_index(release: Release) -> faiss.Index:
    indexed = np.concatenate([vectors[release.filtered(number)] for number, vectors in enumerate(release.vectors)])
    index = faiss.index_factory(WIDTH, "OPQ4,IVF1,PQ4x8", faiss.METRIC_INNER_PRODUCT)
    faiss.downcast_VectorTransform(index.chain.at(0)).niter = 2  # quick rather than good
    faiss.downcast_index(index.index).do_polysemous_training = False
    index.train(indexed)
    index.add(indexed)
    faiss.write_index(index, str(release.folder / INDEX))
    return index


def add_held_out(release: Release) -> None:
    """The valid and test files, which the released script also writes: the last two items of every user."""
    for part, back in (("valid", 2), ("test", 1)):
        lines = [
            f"{number}-{user}\t{' '.join(f'{number}-{item}' for item in items[:-back][-WINDOW:])}\t{number}-{items[-back]}\n"
            for number, of_domain in enumerate(release.sequences)
            for user, items in of_domain.items()
        ]
        (release.folder / f"FCK.{part}.inter").write_text(HEADER + "".join(lines))


def prepare(release: Release, output: Path, **arguments: Any) -> dict[str, Any]:
    return prepare_atomic(release.folder, output, vector_width=WIDTH, **arguments)


def folders(output: Path) -> list[Path]:
    return [output / domain for domain in ITEMS]


def same_files(one: Path, other: Path) -> bool:
    names = [sorted(file.name for file in folder.iterdir()) for folder in (one, other)]
    assert names[0] == names[1]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names[0])


def test_sequences_and_ids_of_each_domain(release: Release, tmp_path: Path) -> None:
    result = prepare(release, tmp_path / "out")
    assert (result["training_only"], result["word_drop_draws"], result["codes"]) == (True, 1, "official")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(ITEMS)
    for number, folder in enumerate(folders(tmp_path / "out")):
        dataset, training = PreparedDataset.open(folder), release.training(number)
        assert [dataset.sequences[row].tolist() for row in range(dataset.num_users)] == list(training.values())
        assert dataset.raw_user_ids == [f"{folder.name}-{user}" for user in training]
        assert f"{folder.name}-2" not in dataset.raw_user_ids
        assert dataset.raw_item_ids == [f"{folder.name}-{item}" for item in range(ITEMS[folder.name])]
        assert dataset.texts == [""] * dataset.num_items
        assert dataset.manifest.attributes == []
        assert result["domains"][number]["interactions"] == sum(map(len, training.values()))
    assert max(map(len, release.training(0).values())) == 58  # its rows show at most 51 of them


def test_all_interactions_train(release: Release, tmp_path: Path) -> None:
    prepare(release, tmp_path / "out")
    for folder in folders(tmp_path / "out"):
        dataset = PreparedDataset.open(folder)
        assert np.array_equal(dataset.roles("leave-one-out"), np.full(dataset.num_interactions, TRAIN))
        assert set(np.unique(dataset.roles("held-out-items"))) >= {TRAIN, VALID, TEST}
        assert dataset.manifest.arguments["training_only"]


def test_vectors_and_word_drop_bit_for_bit(release: Release, tmp_path: Path) -> None:
    prepare(release, tmp_path / "out")
    for number, folder in enumerate(folders(tmp_path / "out")):
        dataset = PreparedDataset.open(folder)
        assert dataset.feature_names == ["feat1CLS"]
        assert dataset.features("feat1CLS").tobytes() == release.vectors[number].tobytes()
        assert np.load(folder / "features/feat1CLS.drop0.npy").tobytes() == release.dropped[number].tobytes()


def test_codes_of_each_domain(release: Release, tmp_path: Path) -> None:
    result = prepare(release, tmp_path / "out")
    index = faiss.read_index(str(release.folder / INDEX))
    books = set()
    for number, folder in enumerate(folders(tmp_path / "out")):
        stored = ItemCodes.load(folder / "codes/official.npz")
        assert np.array_equal(stored.codes, index.sa_encode(release.vectors[number]))  # also of items not in the index
        assert len(release.filtered(number)) < ITEMS[folder.name]
        assert result["domains"][number]["indexed_items"] == len(release.filtered(number))
        assert result["domains"][number]["indexed_items_whose_vectors_code_differently"] == 0
        books.add(stored.book.fingerprint)
    assert len(books) == 1


@pytest.mark.parametrize("held_out", [False, True])
def test_the_way_back_gives_the_same_bytes(release: Release, tmp_path: Path, held_out: bool) -> None:
    if held_out:
        for of_domain in release.sequences:
            del of_domain[2]  # without training rows it is left out, and cannot come back
        add_held_out(release)
    prepare(release, tmp_path / "out")
    result = export(folders(tmp_path / "out"), tmp_path / "back")
    assert result["train_rows"] == sum(len(items) - 1 for d in range(3) for items in release.training(d).values())
    assert (result["valid_rows"] > 0) == held_out
    assert same_files(release.folder, tmp_path / "back")


def test_valid_and_test_files_complete_the_sequences(release: Release, tmp_path: Path) -> None:
    add_held_out(release)
    result = prepare(release, tmp_path / "out")
    assert not result["training_only"]
    for number, folder in enumerate(folders(tmp_path / "out")):
        dataset = PreparedDataset.open(folder)
        whole = [items for items in release.sequences[number].values() if len(items) > 3]
        assert [dataset.sequences[row].tolist() for row in range(dataset.num_users)] == whole
        assert dataset.roles()[: len(whole[0])].tolist() == [TRAIN] * (len(whole[0]) - 2) + [VALID, TEST]
        assert dataset.manifest.report["users_without_training_rows"] == 1


def test_without_word_drop_and_index(release: Release, tmp_path: Path) -> None:
    for file in [*release.folder.glob("*.feat2CLS"), release.folder / "FCK.filtered_id", release.folder / INDEX]:
        file.unlink()
    result = prepare(release, tmp_path / "out")
    assert (result["word_drop_draws"], result["codes"]) == (0, None)
    assert not list((tmp_path / "out").glob("*/features/*.drop0.npy"))
    assert PreparedDataset.open(tmp_path / "out/Food").code_names == []
    result = export(folders(tmp_path / "out"), tmp_path / "back")
    assert result["domains_without_word_drop"] == 3
    assert not list((tmp_path / "back").glob("*.feat2CLS"))


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-size]) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def rows(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Change the list of lines of the training file."""

    def apply(folder: Path) -> None:
        file = folder / "FCK.train.inter"
        file.write_text("".join(change(file.read_text().splitlines(keepends=True))))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            rows(lambda lines: [lines[0], lines[1].replace("\t0-", "\t"), *lines[2:]]),
            r"train\.inter, line 2: found '\d+' among the ids of user 0-0; expected `<domain number>-<number>`",
        ),
        (
            edit("FCK.train.inter", "0-1\t0-", "0-1\t1-"),
            r"line 4: found '0-\d+' among the ids of user 0-1; .* all of one domain",
        ),
        (
            edit("FCK.pt_datasets", ",Kindle", ""),
            r"user 2-0 has items of domain 2; .* one of the 2 .*, counted from 0: Food, CDs",
        ),
        (cut("CDs.feat1CLS", 8), r"CDs\.feat1CLS: 8,312 bytes are not whole rows of 16 float32 .*--vector-width"),
        (cut("CDs.feat2CLS", 64), r"CDs\.feat2CLS has 8,256 bytes, CDs\.feat1CLS has 8,320"),
        (
            lambda folder: (cut("Food.feat1CLS", 64 * 100)(folder), cut("Food.feat2CLS", 64 * 100)(folder)),
            r"user 0-\d+ has item 0-\d+, but Food\.feat1CLS has 50 rows of width 16 \(items 0 to 49\)",
        ),
        (
            lambda folder: (folder / "CDs.feat2CLS").write_bytes(b"\xff" * (folder / "CDs.feat2CLS").stat().st_size),
            r"CDs\.feat2CLS: 130 of 130 item vectors hold NaN or an infinity, first that of row 0 \(item 0 of CDs\)",
        ),
        (remove("Kindle.feat1CLS"), r"Kindle\.feat1CLS is missing: the vectors of the items of Kindle"),
        (remove("Kindle.feat2CLS"), r"Kindle\.feat2CLS is missing, but other domains have such a file"),
        (remove("FCK.pt_datasets"), r"FCK\.pt_datasets is missing"),
        (remove("FCK.filtered_id"), r"FCK\.filtered_id is missing"),
        (edit("FCK.filtered_id", "1-", "0-"), r"FCK\.filtered_id, line \d+: found '0-\d+', expected 1-\d+"),
        (cut("FCK.filtered_id", 5), r"found (the end of the file|'2-\d'), expected 2-\d+"),
        (edit("FCK.pt_datasets", "CDs", "../CDs"), r"pt_datasets: expected the names .*found 'Food,\.\./CDs,Kindle'"),
        (edit("FCK.pt_datasets", "Kindle", "Kindle,Kindle"), "each once"),
        (rows(lambda lines: [line for line in lines if not line.startswith("1-")]), r"no row of domain 1 \(CDs\)"),
        (rows(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]), "line 3: history and target of user 0-0"),
        (rows(lambda lines: [*lines, lines[1]]), r"line \d+: user 0-0 has rows further up"),
        (rows(lambda lines: lines[:-1]), "end at a history of 2 items; expected every prefix down to one item"),
        (rows(lambda lines: [*lines, "0-99\t0-1\n"]), r"line \d+: expected a user, the items .* found '0-99\\t0-1'"),
        (rows(lambda lines: ["user\titems\titem\n", *lines[1:]]), r"the header is 'user\\titems\\titem', expected"),
        (lambda folder: (folder / "FCK.valid.inter").write_text(HEADER), "has FCK.valid.inter but not the other"),
        (cut(INDEX, 100), r"strict\.index is not a faiss index, or is cut short"),
    ],
)
def test_bad_input(release: Release, tmp_path: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(release.folder)
    with pytest.raises(DataFormatError, match=message):
        prepare(release, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["FCK"]  # no output, finished or half-written


def test_valid_rows_of_another_release(release: Release, tmp_path: Path) -> None:
    add_held_out(release)
    file = release.folder / "FCK.valid.inter"
    file.write_text(file.read_text().replace("\n0-0\t0-", "\n0-0\t0-1"))
    with pytest.raises(DataFormatError, match=r"valid\.inter, line 2: the history of user 0-0 is not the end"):
        prepare(release, tmp_path / "out")
    file.write_text(HEADER)
    with pytest.raises(DataFormatError, match=r"valid\.inter has no row of user 0-0"):
        prepare(release, tmp_path / "out")


def test_settings_that_cannot_work(release: Release, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"codes vectors of width 16, but --vector-width is 768"):
        prepare_atomic(release.folder, tmp_path / "out")
    with pytest.raises(SettingsError, match="--vector-width is 0"):
        prepare_atomic(release.folder, tmp_path / "out", vector_width=0)
    with pytest.raises(SettingsError, match=r"--k-core.* cannot be used here"):
        prepare(release, tmp_path / "out", k_core=5)


# -- export of folders that were never released ---------------------------------------------------------------------


def test_own_folders_as_a_pretraining_folder(make_dataset: Any, tmp_path: Path) -> None:
    vectors = np.arange(24, dtype=np.float32).reshape(6, 4)
    one = make_dataset([[4, 1, 2, 0], [1, 3, 5]], features={"enc": vectors}, name="shop", num_items=6)
    two = make_dataset([[2, 0, 2, 1, 3]], features={"enc": vectors[:4]}, name="books", num_items=4)
    result = export([one.path, two.path], tmp_path / "out", features="enc", window=1)
    assert (result["train_rows"], result["texts_left_out"], result["vector_width"]) == (3, 10, 4)
    out = tmp_path / "out"
    assert (out / "sb.pt_datasets").read_text() == "shop,books\n"
    assert (out / "sb.train.inter").read_text() == HEADER + "0-0\t0-4\t0-1\n1-0\t1-0\t1-2\n1-0\t1-2\t1-0\n"
    assert (out / "sb.valid.inter").read_text() == HEADER + "0-0\t0-1\t0-2\n0-1\t0-1\t0-3\n1-0\t1-2\t1-1\n"
    assert (out / "sb.test.inter").read_text() == HEADER + "0-0\t0-2\t0-0\n0-1\t0-3\t0-5\n1-0\t1-1\t1-3\n"
    assert (out / "sb.filtered_id").read_text() == "0-1\n0-4\n1-0\n1-2\n"
    assert (out / "books.feat1CLS").read_bytes() == vectors[:4].tobytes()


def test_a_single_domain_and_further_draws(release: Release, tmp_path: Path) -> None:
    prepare(release, tmp_path / "out")
    food, cds, _ = folders(tmp_path / "out")
    np.save(food / "features/feat1CLS.drop1.npy", release.dropped[0])
    result = export([food], tmp_path / "one", pretraining=True, name="Solo")
    assert (result["domains"], result["word_drop_draws_left_out"]) == (1, 1)  # the released form has room for one draw
    assert (tmp_path / "one/Solo.pt_datasets").read_text() == "Food\n"
    assert (tmp_path / "one/Food.feat2CLS").read_bytes() == release.dropped[0].tobytes()
    assert (
        len(faiss.read_index(str(tmp_path / "one" / INDEX.replace("FCK", "Solo"))).sa_encode(release.vectors[0])) == 150
    )
    (cds / "features/feat1CLS.drop0.npy").unlink()
    result = export([food, cds], tmp_path / "two")
    assert (result["domains_without_word_drop"], result["word_drop_draws_left_out"]) == (1, 2)
    assert not list((tmp_path / "two").glob("*.feat2CLS"))


def test_folders_that_do_not_go_together(release: Release, make_dataset: Any, tmp_path: Path) -> None:
    prepare(release, tmp_path / "out")
    food, cds, _ = folders(tmp_path / "out")
    stored = ItemCodes.load(cds / "codes/official.npz")
    stored.book.centroids[0, 0, 0] += 1
    stored.save(cds / "codes/official.npz")
    with pytest.raises(StaleFeaturesError, match=r"official.*CDs are of another codebook than those of .*Food"):
        export([food, cds], tmp_path / "back")
    with pytest.raises(DataFormatError, match="named Food, Food; domains are named like their folders"):
        export([food, food], tmp_path / "back")
    with pytest.raises(SettingsError, match="--codes is for pre-training folders"):
        export([food], tmp_path / "back", codes="official")
    plain = make_dataset([[0, 1, 2]], name="plain")
    with pytest.raises(SettingsError, match="plain has no imported vectors 'feat1CLS'"):
        export([food, plain.path], tmp_path / "back")
    assert not (tmp_path / "back").exists()

"""A model on data that it was never tuned on: every item is read by its text."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.batching.catalogue import load_codes
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError
from linguarec.evaluation.evaluate import encode_items, evaluating
from linguarec.hub.backbone import check_vocabulary
from linguarec.models import MODELS
from linguarec.ranking.ranks import full_precision
from linguarec.recipes.matching import OWN_CODES, book_of, fitting_vectors, leave_unread, stored_codes
from linguarec.recipes.runs import refuse
from linguarec.recipes.sentence_inputs import form_of, tokens_for, warn_of_other_sentences
from linguarec.recipes.starting import Start
from linguarec.sentences import SentenceReader
from linguarec.text.attributes import ItemTokens


def read_by_text(
    start: Start, dataset: PreparedDataset, features: str | None, tokens: str | None = None
) -> tuple[Tensor | ItemTokens, Tensor]:
    """Inputs [N, D] and keys [N, Dk] of the dataset's items: by its vectors of the model's encoder, or encoded now.

    The work is done where the model is, and vectors and keys stay there.
    Models of codes take the codes of their own book, stored ones or coded now; models of tokens those of the dataset.

    Raises:
        SettingsError: the model knows items by ID.
        DataFormatError: the dataset's texts were cleaned by other rules.
        StaleFeaturesError: neither vectors of the encoder nor the encoder itself are at hand.
    """
    reads, device = MODELS[start.name].reads, next(start.network.parameters()).device
    if "ids" in reads:
        raise SettingsError(
            [
                f"{start.folder} holds a {start.name}, which knows items by ID; the items of {dataset.path} have no ID "
                "there. Take a model that reads text alone, such as unisrec (--mode inductive) or vqrec"
            ]
        )
    if reads == "tokens":
        refuse(start.name, {"features": features})
        read = tokens_for(start, dataset, tokens)
        if form_of(start.folder) is None:  # after a conversion: whatever form the data's tokens have
            check_vocabulary(read.form, start.description.config)
            reader = SentenceReader(read.form, start.network, read.tokenizer)
        else:
            reader = SentenceReader.load(start.folder, start.network, start.description)
        warn_of_other_sentences(start, {dataset.path: read.form})
        reader.model.to(device)
        return read.tokens, reader.keys(read.tokens, device)
    refuse(start.name, {"tokens": tokens})
    features, stored = names_by_text(start, dataset, features)
    vectors = codes = None
    if stored is not None:
        codes = torch.from_numpy(load_codes(dataset, stored).codes.astype(np.int64))
    else:
        found = _encoded(start, dataset) if features is None else dataset.load_features(features)
        if reads == "codes":
            codes = torch.from_numpy(book_of(start).encode(found).astype(np.int64))
        else:
            vectors = torch.from_numpy(found)
    items = ItemBatch(
        rows=torch.full((dataset.num_items,), -1),
        domain=torch.zeros(dataset.num_items, dtype=torch.int64),
        features=vectors,
        codes=codes,
    )
    with evaluating(start.network), torch.inference_mode(), full_precision(device):
        inputs, keys = encode_items(start.network, items, device)
    return inputs.float(), keys.float()


def names_by_text(start: Start, dataset: PreparedDataset, features: str | None) -> tuple[str | None, str | None]:
    """Names of the vectors or of the codes by which `read_by_text` reads the items; neither = it encodes their texts now.

    Raises:
        SettingsError, StaleFeaturesError, CheckpointMismatchError: as of `fitting_vectors` and `book_of`.
    """
    if MODELS[start.name].reads == "codes":
        codes = stored_codes(book_of(start, OWN_CODES), dataset)
        if codes is not None:
            leave_unread(start, dataset, features, codes)
            return None, codes
    try:
        return fitting_vectors(start, dataset, features), None
    except StaleFeaturesError:
        if features is not None or start.encoder is None or start.encoder.weights_sha256 is None:
            raise
        return None, None


def _encoded(start: Start, dataset: PreparedDataset) -> npt.NDArray[np.float32]:
    """Vectors of the dataset's texts by the start's own encoder, made now."""
    from linguarec.text.encoders import TextEncoder

    own = start.encoder
    assert own is not None
    if dataset.manifest.text_rules != own.text_rules:
        raise DataFormatError(
            f"{dataset.path}: its texts were cleaned by the rules {dataset.manifest.text_rules!r}, those of "
            f"{start.folder} by {own.text_rules!r}; prepare it again with --text-rules {own.text_rules}."
        )
    return np.asarray(TextEncoder.load(own).encode(dataset.texts), dtype=np.float32)

"""A model on data that it was never tuned on: every item is read by its text."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.batching.batches import ItemBatch
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError
from linguarec.evaluation.evaluate import encode_items, evaluating
from linguarec.evaluation.ranks import full_precision
from linguarec.hub.backbone import check_vocabulary
from linguarec.models import MODELS
from linguarec.recipes.matching import book_of, fitting_vectors, stored_codes
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
            reader = SentenceReader(read.form, start.network)
        else:
            reader = SentenceReader.load(start.folder, start.network, start.description)
        warn_of_other_sentences(start, {dataset.path: read.form})
        reader.model.to(device)
        return read.tokens, reader.keys(read.tokens, device)
    refuse(start.name, {"tokens": tokens})
    vectors = codes = None
    if reads == "codes":
        stored = stored_codes(start, dataset, None)
        coded = book_of(start).encode(_vectors(start, dataset, features)) if stored is None else stored[1].codes
        codes = torch.from_numpy(coded.astype(np.int64))
    else:
        vectors = torch.from_numpy(_vectors(start, dataset, features))
    items = ItemBatch(
        rows=torch.full((dataset.num_items,), -1),
        domain=torch.zeros(dataset.num_items, dtype=torch.int64),
        features=vectors,
        codes=codes,
    )
    with evaluating(start.network), torch.inference_mode(), full_precision(device):
        inputs, keys = encode_items(start.network, items, device)
    return inputs.float(), keys.float()


def _vectors(start: Start, dataset: PreparedDataset, features: str | None) -> npt.NDArray[np.float32]:
    own = start.encoder
    if own is not None and own.weights_sha256 is not None and dataset.manifest.text_rules != own.text_rules:
        raise DataFormatError(
            f"{dataset.path}: its texts were cleaned by the rules {dataset.manifest.text_rules!r}, those of "
            f"{start.folder} by {own.text_rules!r}; prepare it again with --text-rules {own.text_rules}."
        )
    try:
        name = fitting_vectors(start, dataset, features)
    except StaleFeaturesError:
        if features is not None or own is None or own.weights_sha256 is None:
            raise
        from linguarec.text.encoders import TextEncoder

        return np.asarray(TextEncoder.load(own).encode(dataset.texts), dtype=np.float32)
    return dataset.load_features(name)

"""Sizes of the data that a model needs before it can be built."""

from dataclasses import dataclass

from linguarec.errors import SettingsError


@dataclass(frozen=True)
class CatalogueShape:
    """Sizes that come from the data, not from the user: with the config they decide the shapes of a model's tensors.

    `num_items`: rows of the catalogue (ID embeddings). `feature_width`: width of the text vectors. `code_books`, `centroids`:
    sub-spaces M and centroids K of the item codes.
    """

    num_items: int
    feature_width: int | None = None
    code_books: int | None = None
    centroids: int | None = None

    def needs_features(self) -> int:
        """The feature width, for models that read text vectors.

        Raises:
            SettingsError: the data has no text vectors.
        """
        if self.feature_width is None:
            raise SettingsError(["this model reads item text vectors, and none were given; name them with --features"])
        return self.feature_width

    def needs_codes(self) -> tuple[int, int]:
        """(M, K), for models that read item codes.

        Raises:
            SettingsError: the data has no item codes.
        """
        if self.code_books is None or self.centroids is None:
            raise SettingsError(["this model reads item codes, and none were given; name them with --codes"])
        return self.code_books, self.centroids

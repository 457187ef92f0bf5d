"""The model families, one folder each, and the table of them. To add a family, add a folder and a line here."""

from linguarec.families.bert4rec.method import BERT4REC
from linguarec.families.blend.method import BLEND
from linguarec.families.ease.method import EASE_FAMILY
from linguarec.families.ease_text.method import EASE_TEXT
from linguarec.families.family import Family
from linguarec.families.fdsa.method import FDSA_FAMILY
from linguarec.families.itemknn.method import ITEM_KNN
from linguarec.families.recformer.method import RECFORMER
from linguarec.families.recguru.method import RECGURU
from linguarec.families.s3rec.method import S3REC
from linguarec.families.sasrec.method import SASREC
from linguarec.families.sasrec_text.method import SASREC_TEXT
from linguarec.families.textknn.method import TEXT_KNN
from linguarec.families.unisrec.method import UNISREC, UNISREC_TRANSDUCTIVE
from linguarec.families.vqrec.method import VQREC
from linguarec.families.zesrec.method import ZESREC

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        SASREC,
        BERT4REC,
        S3REC,
        SASREC_TEXT,
        FDSA_FAMILY,
        ZESREC,
        UNISREC,
        UNISREC_TRANSDUCTIVE,
        VQREC,
        RECFORMER,
        RECGURU,
        EASE_FAMILY,
        EASE_TEXT,
        ITEM_KNN,
        TEXT_KNN,
        BLEND,
    )
}

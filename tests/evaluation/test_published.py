from linguarec.evaluation.published import published_values
from linguarec.families import FAMILIES

SCIENTIFIC = {"users": 8_442, "items": 4_385, "interactions": 59_427}


def test_values_of_the_same_cut():
    found = published_values(SCIENTIFIC, "leave-one-out")
    values = {(model, value.metric): value.value for model, rows in found.items() for value in rows}
    assert values["sasrec", "recall@10"] == 0.1080
    assert values["vqrec", "ndcg@10"] == 0.0593
    assert (values["bert4rec", "ndcg@10"], values["s3rec", "recall@50"]) == (0.0243, 0.1418)
    assert values["unisrec-transductive", "ndcg@10"] == 0.0634
    assert set(found) <= set(FAMILIES)
    assert [value.pretrained for value in found["vqrec"]] == [False] * 4
    assert all(value.pretrained for value in found["unisrec"])


def test_no_values_for_another_cut_or_split():
    assert published_values({**SCIENTIFIC, "items": 5_327}, "leave-one-out") == {}
    assert published_values(SCIENTIFIC, "held-out-items") == {}

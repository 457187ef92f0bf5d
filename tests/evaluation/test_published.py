from linguarec.evaluation.published import published_values
from linguarec.families import FAMILIES

SCIENTIFIC = {"users": 8_442, "items": 4_385, "interactions": 59_427}
ONLINE_RETAIL = {"users": 16_520, "items": 3_469, "interactions": 519_906}
METRICS = ("recall@10", "ndcg@10", "recall@50", "ndcg@50")
# Main table of the VQ-Rec paper, in the order of METRICS: Scientific, then Online Retail.
TABLE = {
    "sasrec": ((0.1080, 0.0553, 0.2042, 0.0760), (0.1460, 0.0675, 0.3872, 0.1201)),
    "bert4rec": ((0.0488, 0.0243, 0.1185, 0.0393), (0.1349, 0.0653, 0.3540, 0.1131)),
    "fdsa": ((0.0899, 0.0580, 0.1732, 0.0759), (0.1490, 0.0719, 0.3802, 0.1223)),
    "s3rec": ((0.0525, 0.0275, 0.1418, 0.0468), (0.1418, 0.0654, 0.3702, 0.1154)),
    "recguru": ((0.1023, 0.0572, 0.2022, 0.0786), (0.1467, 0.0658, 0.3885, 0.1188)),
    "zesrec": ((0.0851, 0.0475, 0.1746, 0.0670), (0.1103, 0.0535, 0.2750, 0.0896)),
    "vqrec": ((0.1211, 0.0643, 0.2369, 0.0897), (0.1557, 0.0730, 0.3994, 0.1263)),
}


def test_values_of_the_same_cut():
    for place, counts in enumerate((SCIENTIFIC, ONLINE_RETAIL)):
        found = published_values(counts, "leave-one-out")
        for model, values in TABLE.items():
            systems = {value.system for value in found[model]}
            name = "VQ-Rec" if model == "vqrec" else systems.pop()
            of = {value.metric: value.value for value in found[model] if value.system == name}
            assert tuple(of[metric] for metric in METRICS) == values[place], (model, place)
        assert set(found) - {""} <= set(FAMILIES)
        # Only these two of the five further rows were pre-trained.
        assert [all(value.pretrained for value in found[name]) for name in ("zesrec", "recguru")] == [True, True]
        assert not any(value.pretrained for name in ("bert4rec", "fdsa", "s3rec") for value in found[name])


def test_a_model_may_have_values_of_several_systems():
    found = published_values(SCIENTIFIC, "leave-one-out")
    scratch = [value for value in found["vqrec"] if not value.pretrained]
    assert {value.system for value in scratch} == {"VQ-Rec without pre-training"}
    assert {value.metric: value.value for value in scratch}["ndcg@10"] == 0.0593
    assert found["vqrec"][0] == scratch[0]  # comes first: what a training from scratch compares with
    assert {value.metric: value.value for value in found["unisrec-transductive"]}["ndcg@10"] == 0.0634
    assert {value.system for value in found[""]} == {"MISSRec, text + image + ID", "MISSRec, ID"}
    assert [value.system for value in published_values(ONLINE_RETAIL, "leave-one-out")[""]] == ["TedRec"] * 2


def test_no_values_for_another_cut_or_split():
    assert published_values({**SCIENTIFIC, "items": 5_327}, "leave-one-out") == {}
    assert published_values(SCIENTIFIC, "held-out-items") == {}

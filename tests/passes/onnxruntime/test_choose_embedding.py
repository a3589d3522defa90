import pytest
from choosing import chooses, keeps, keeps_without_gain
from folding import build, weights

from whet.passes.onnxruntime.choose_embedding import ChooseEmbedding

STEP = ChooseEmbedding()
CONSTANTS = weights(words=(30, 8), places=(12, 8), kinds=(2, 8), w=(8,), b=(8,), cube=(30, 2, 8))
IDS = "int64[N,M] i"
THREE = "g = Gather(words, i) h = Gather(kinds, k) j = Gather(places, p)"
NORM = "y = LayerNormalization<epsilon=1e-7>(s, w, b)"


def text(body: str, p: str = "int64[1,M]", k: str = "int64[N,M]", outputs: str = "") -> str:
    inputs = f"{IDS}, {p} p, {k} k"
    return f"({inputs}) => (float[N,M,8] y{outputs}) {{ {body} }}"


@pytest.mark.parametrize("p", ["int64[1,M]", "int64[N,M]"])
@pytest.mark.parametrize(
    "total",
    [
        "t = Add(g, h) s = Add(t, j)",
        "t = Add(g, j) s = Add(h, t)",
        "t = Add(j, h) s = Add(g, t)",
    ],
)
def test_three_embeddings(total: str, p: str) -> None:
    model = build(text(f"{THREE} {total} {NORM}", p), CONSTANTS)
    chooses(model, STEP, ["Cast", "Cast", "Cast", "EmbedLayerNormalization"])


def test_indices_that_are_int32_need_no_cast() -> None:
    source = text(f"{THREE} t = Add(g, h) s = Add(t, j) {NORM}").replace("int64", "int32")
    chooses(build(source, CONSTANTS), STEP, ["EmbedLayerNormalization"])


@pytest.mark.parametrize("total", ["s = Add(g, j)", "s = Add(j, g)"])
def test_two_embeddings(total: str) -> None:
    body = f"g = Gather(words, i) j = Gather(places, p) {total} {NORM}"
    chooses(build(text(body), CONSTANTS), STEP, ["Cast", "Cast", "EmbedLayerNormalization"])


def test_readers_of_the_sum_before_the_norm() -> None:
    body = f"{THREE} t = Add(g, h) s = Add(t, j) z = Neg(s) {NORM}"
    model = build(text(body, outputs=", float[N,M,8] z"), CONSTANTS)
    chooses(model, STEP, ["Cast", "Cast", "Cast", "EmbedLayerNormalization", "Neg"])


def test_no_gain() -> None:
    model = build(text(f"{THREE} t = Add(g, h) s = Add(t, j) {NORM}"), CONSTANTS)
    keeps_without_gain(model, STEP)


def two(ids: str, table: str, norm: str, *, y: str = "N,3,8", axis: int = 0, more: str = "") -> str:
    """Sum two embeddings of any table and normalize."""
    gather = f"Gather<axis={axis}>(TABLE, IDS)".replace("TABLE", table)
    one, other = gather.replace("IDS", "i"), gather.replace("IDS", "k")
    return f"""(int64[{ids}] i, int64[{ids}] k) => (float[{y}] y{more})
    {{ g = {one} j = {other} s = Add(g, j) {norm} }}"""


LAYER = "y = LayerNormalization"
MEAN = ", float[N,3,1] m"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (text(f"{THREE} t = Add(g, h) s = Add(t, j) {NORM}", k="int64[1,M]"), "differ from"),
        (text(f"{THREE} t = Add(g, h) s = Add(t, j) {NORM}", p="int64[M]"), "differ from"),
        (text(f"{THREE} t = Add(g, h) s = Add(t, j) {NORM}", outputs=", float[N,M,8] g"), "is read elsewhere too"),
        (two("N", "words", f"{LAYER}(s, w, b)", y="N,8"), "not (batch, length)"),
        (two("N", "cube", f"{LAYER}(s, w, b)", y="N,2,8"), "has not two dimensions"),
        (two("N", "words", f"{LAYER}<axis=0>(s, v, v)", y="30,N", axis=1), "gathered along axis 1"),
        (two("N,3", "words", f"{LAYER}<axis=1>(s, u, u)"), "from axis 1"),
        (two("N,3", "words", "y, m = LayerNormalization(s, w, b)", more=MEAN), "mean or deviation"),
        (two("N,3", "words", f"{LAYER}(s, r, r)"), "'r' has shape (1,)"),
    ],
)  # fmt: skip
def test_declines_say_why(source: str, reason: str) -> None:
    more = weights(v=(30, 1), u=(3, 8), r=(1,))
    keeps(build(source, {**CONSTANTS, **more}), STEP, reason)

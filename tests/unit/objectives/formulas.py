"""The equations once more, row by row in plain Python and numpy float64: nothing here calls torch or the code it checks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.objectives.base import Objective
from worker.rows import NO_LABEL, Batch
from worker.signals import Signals

Array = NDArray[np.float64]


@dataclass
class Given:
    """What one objective was given, as numpy; `x` is the share of the stage done."""

    objective: Any
    student: Signals
    teacher: Signals | None
    batch: Batch
    x: float

    @property
    def p(self) -> Any:
        return self.objective.params

    def both(self, name: str) -> tuple[Array, Array]:
        return array(getattr(self.student, name)), array(getattr(self.teacher, name))

    @property
    def lengths(self) -> list[int]:
        return [int(n) for n in self.batch.attention_mask_BT.sum(1)]

    @property
    def labels(self) -> Array:
        return array(self.batch.labels)

    @property
    def tau(self) -> float:
        return float(self.p.temperature(self.x))

    def linear(self, name: str, vector: Array) -> Array:
        maps = self.objective.projections.maps
        if name not in maps:
            return vector
        return array(maps[name].weight) @ vector + array(maps[name].bias)

    def groups(self, *names: str) -> Iterator[tuple[Array, ...]]:
        """Per query: its documents' numbers alone."""
        for g, size in enumerate(self.batch.sizes):
            yield tuple(array(self.batch.labels if n == "labels" else getattr(self, n).scores_GK)[g, :size] for n in names)

    def tokens(self) -> Iterator[tuple[int, int]]:
        return ((b, t) for b, n in enumerate(self.lengths) for t in range(n))


def array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().double().numpy(), dtype=np.float64)


def softmax(z: Sequence[float] | Array) -> list[float]:
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mixture(p: Sequence[float], q: Sequence[float], share: float) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def huber(d: float) -> float:
    return d * d / 2 if abs(d) <= 1 else abs(d) - 0.5


# -- labels ------------------------------------------------------------------------------------------------------------


def hard_label(g: Given) -> float:
    total, e = 0.0, g.p.label_smoothing
    for z, y in zip(array(g.student.logits_NC), g.labels, strict=True):
        if g.batch.problem == "multi_label":
            for one, label in zip(z, y, strict=True):
                if not math.isnan(label):
                    soft = (1 - e) * label + e / 2
                    total -= soft * math.log(sigmoid(one)) + (1 - soft) * math.log(sigmoid(-one))
        elif g.batch.problem == "regression":
            total += 0.0 if math.isnan(y) else (z[0] - y) ** 2
        elif y != NO_LABEL:
            q = softmax(z)
            total -= (1 - e) * math.log(q[int(y)]) + e * sum(math.log(v) for v in q) / len(q)
    return total


def masked_lm(g: Given) -> float:
    return -sum(math.log(softmax(z)[int(y)]) for z, y in zip(array(g.student.logits_NC), g.labels, strict=True))


def hard_rank(g: Given) -> float:
    total = 0.0
    for scores, grades in g.groups("student", "labels"):
        if sum(v for v in grades if not math.isnan(v)) > 0:
            total -= sum(y / sum(grades) * math.log(q) for y, q in zip(grades, softmax(scores), strict=True))
    return total


def hard_similarity(g: Given) -> float:
    total, at, e = 0.0, 0, array(g.student.embedding_BE)
    for size, y in zip(g.batch.sizes, g.labels, strict=True):
        if size == 2 and not math.isnan(y):
            total += (cosine(e[at], e[at + 1]) - y) ** 2
        at += size
    return total


# -- responses ---------------------------------------------------------------------------------------------------------


def response(g: Given) -> float:
    ours, theirs = g.both("logits_NC")
    rows, total = [], 0.0
    taus = _temperatures(g, ours, theirs)
    for n, (z_s, z_t) in enumerate(zip(ours, theirs, strict=True)):
        if g.p.standardize:
            z_s, z_t = ((z - z.mean()) / z.std() for z in (z_s, z_t))
        if g.batch.problem == "multi_label":
            rows += [([s, 0.0], [t, 0.0], -1, taus[n][c]) for c, (s, t) in enumerate(zip(z_s, z_t, strict=True))]
        else:
            label = int(g.labels[n]) if g.batch.problem != "regression" else -1
            rows.append((list(z_s), list(z_t), label, taus[n][0]))
    for z_s, z_t, label, tau in rows:
        if g.p.divergence == "logit_mse":
            one = 1 if g.batch.problem == "multi_label" else len(z_s)
            total += sum((a - b) ** 2 for a, b in zip(z_s, z_t, strict=True)) / one
            continue
        p, q = softmax([z / tau for z in z_t]), softmax([z / tau for z in z_s])
        total += tau**2 * _divergence(g, p, q, label)
    return total


def _divergence(g: Given, p: list[float], q: list[float], label: int) -> float:
    kind, skew, beta = g.p.divergence, g.p.skew, g.p.beta
    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    if kind == "jsd":
        m = mixture(p, q, beta)
        return float(beta * kl(p, m) + (1 - beta) * kl(q, m))
    if kind == "skew_kl":
        return kl(p, mixture(p, q, skew))
    if kind == "skew_reverse_kl":
        return kl(q, mixture(q, p, skew))
    if kind == "total_variation":
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    if kind == "adaptive_kl":
        head = adaptive_head(p, q)
        return head * kl(p, q) + (1 - head) * kl(q, p)
    target = label if label != NO_LABEL else p.index(max(p))
    rest_p, rest_q = ([v for c, v in enumerate(d) if c != target] for d in (p, q))
    binary = kl([p[target], sum(rest_p)], [q[target], sum(rest_q)])
    others = kl([v / sum(rest_p) for v in rest_p], [v / sum(rest_q) for v in rest_q])
    return float(g.p.dkd_alpha * binary + g.p.dkd_beta * others)


def adaptive_head(p: list[float], q: list[float]) -> float:
    order = sorted(range(len(p)), key=lambda c: -p[c])
    head, cumulative = [], 0.0
    for n, c in enumerate(order):
        cumulative += p[c]
        if n == 0 or cumulative <= 0.5:
            head.append(abs(p[c] - q[c]))
    return sum(head) / sum(abs(a - b) for a, b in zip(p, q, strict=True))


def _temperatures(g: Given, ours: Array, theirs: Array) -> list[list[float]]:
    """One per row, or per row and label."""
    many = ours.shape[1] if g.batch.problem == "multi_label" else 1
    if g.p.per_sample == "none":
        return [[g.tau] * many for _ in ours]
    if g.p.per_sample == "flsw":
        w = [[(1 - cosine(a, b)) ** g.p.sample_gamma] * many for a, b in zip(ours, theirs, strict=True)]
    elif many > 1:
        w = [[1 / max(sigmoid(z), sigmoid(-z)) for z in a] for a in ours]
    else:
        w = [[1 / max(softmax(a))] for a in ours]
    mean = float(np.mean(w))
    return [[min(max(g.tau + g.p.sample_b * (mean - v), 0.05), 100.0) for v in row] for row in w]


def dist(g: Given) -> float:
    ours, theirs = (
        np.array([[sigmoid(v / g.tau) for v in z] if g.batch.problem == "multi_label" else softmax(z / g.tau) for z in logits])
        for logits in g.both("logits_NC")
    )
    inter = sum(1 - np.corrcoef(q, p)[0, 1] for q, p in zip(ours, theirs, strict=True))
    intra = [1 - np.corrcoef(q, p)[0, 1] for q, p in zip(ours.T, theirs.T, strict=True)]
    return float(g.tau**2 * (g.p.inter_weight * inter + g.p.intra_weight * len(ours) * np.mean(intra)))


# -- layers ------------------------------------------------------------------------------------------------------------


def _states(g: Given, chosen: Sequence[tuple[int, int]]) -> Iterator[tuple[Array, Array]]:
    """Of every pair of layers and every chosen (sequence, token)."""
    assert g.teacher is not None
    for i, j in g.objective.pairs:
        for b, t in chosen:
            ours = g.linear(f"layer_{i}_{j}", array(g.student.hidden[i])[b, t])
            yield ours, array(g.teacher.hidden[j])[b, t]


def hidden_mse(g: Given) -> float:
    total = 0.0
    for ours, theirs in _states(g, list(g.tokens())):
        if g.p.normalize:
            ours, theirs = ours / np.linalg.norm(ours), theirs / np.linalg.norm(theirs)
        total += float(np.mean((ours - theirs) ** 2))
    return total / len(g.objective.pairs)


def hidden_cosine(g: Given) -> float:
    return sum(1 - cosine(ours, theirs) for ours, theirs in _states(g, list(g.tokens()))) / len(g.objective.pairs)


def pkd(g: Given) -> float:
    first = [(b, 0) for b in range(len(g.lengths))]
    return sum(
        float(np.sum((ours / np.linalg.norm(ours) - theirs / np.linalg.norm(theirs)) ** 2)) for ours, theirs in _states(g, first)
    )


def cka(g: Given) -> float:
    """Through HSIC of the Gram matrices, where the code goes through covariances."""
    assert g.teacher is not None
    losses = []
    for i, j in g.objective.pairs:
        sides = []
        for state in (array(g.student.hidden[i]), array(g.teacher.hidden[j])):
            if g.p.rows == "tokens":
                rows = np.stack([state[b, t] for b, t in g.tokens()])
            else:
                rows = np.stack([state[b, :n].mean(0) for b, n in enumerate(g.lengths)])
            centre = np.eye(len(rows)) - 1 / len(rows)
            sides.append(centre @ (rows @ rows.T) @ centre)
        k, m = sides
        losses.append(1 - np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m)))
    return float(np.mean(losses)) * len(g.lengths)


def attention_mse(g: Given) -> float:
    assert g.teacher is not None
    total = 0.0
    for i, j in g.objective.pairs:
        (q_s, k_s, _), (q_t, k_t, _) = ([array(t) for t in three] for three in (g.student.qkv[i], g.teacher.qkv[j]))
        for b, t in g.tokens():
            for u in range(g.lengths[b]):
                ours = [q @ k / math.sqrt(len(q)) for q, k in zip(q_s[b, :, t], k_s[b, :, u], strict=True)]
                theirs = [q @ k / math.sqrt(len(q)) for q, k in zip(q_t[b, :, t], k_t[b, :, u], strict=True)]
                if len(ours) != len(theirs):
                    ours, theirs = [float(np.mean(ours))], [float(np.mean(theirs))]
                total += float(np.mean((np.array(ours) - np.array(theirs)) ** 2)) / g.lengths[b]
    return total / len(g.objective.pairs)


def _relation(a: Array, c: Array, t: int, n: int) -> list[float]:
    """softmax over u < n of a[t] · c[u] / √S."""
    return softmax([a[t] @ c[u] / math.sqrt(a.shape[1]) for u in range(n)])


def minilm(g: Given) -> float:
    assert g.teacher is not None
    ((i, j),) = g.objective.pairs
    (q_s, k_s, v_s), (q_t, k_t, v_t) = ([array(t) for t in three] for three in (g.student.qkv[i], g.teacher.qkv[j]))
    total, heads = 0.0, q_s.shape[1]
    for b, t in g.tokens():
        n = g.lengths[b]
        for h in range(heads):
            total += kl(_relation(q_t[b, h], k_t[b, h], t, n), _relation(q_s[b, h], k_s[b, h], t, n)) / heads
            total += kl(_relation(v_t[b, h], v_t[b, h], t, n), _relation(v_s[b, h], v_s[b, h], t, n)) / heads
    return total


def minilmv2(g: Given) -> float:
    assert g.teacher is not None
    ((i, j),) = g.objective.pairs
    heads, total = g.objective.relation_heads, 0.0
    weights = (g.p.query_weight, g.p.key_weight, g.p.value_weight)
    for weight, a_s, a_t in zip(weights, g.student.qkv[i], g.teacher.qkv[j], strict=True):
        for b, t in g.tokens():
            ours, theirs = (np.concatenate(list(array(a)[b]), axis=1) for a in (a_s, a_t))  # (T, D)
            for own, given in zip(np.split(ours, heads, axis=1), np.split(theirs, heads, axis=1), strict=True):
                n = g.lengths[b]
                total += weight * kl(_relation(given, given, t, n), _relation(own, own, t, n)) / heads
    return total


# -- vectors -----------------------------------------------------------------------------------------------------------


def _vectors(g: Given) -> tuple[Array, Array]:
    ours, theirs = g.both("embedding_BE")
    return np.stack([g.linear("embedding", e) for e in ours]), theirs


def embedding_mse(g: Given) -> float:
    total = 0.0
    for a, b in zip(*_vectors(g), strict=True):
        if g.p.normalize:
            a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        total += float(np.mean((a - b) ** 2))
    return total


def embedding_cosine(g: Given) -> float:
    return sum(1 - cosine(a, b) for a, b in zip(*_vectors(g), strict=True))


def infonce(g: Given) -> float:
    ours, theirs = _vectors(g)
    rows = [[cosine(a, b) / g.tau for b in theirs] for a in ours]
    total = -sum(math.log(softmax(row)[i]) for i, row in enumerate(rows))
    if not g.p.symmetric:
        return total
    columns = [list(column) for column in zip(*rows, strict=True)]
    return (total - sum(math.log(softmax(column)[i]) for i, column in enumerate(columns))) / 2


def rkd_distance(g: Given) -> float:
    sides = []
    for e in g.both("embedding_BE"):
        apart = {(i, j): float(np.linalg.norm(e[i] - e[j])) for i in range(len(e)) for j in range(len(e)) if i != j}
        mean = sum(apart.values()) / len(apart)
        sides.append({pair: d / mean for pair, d in apart.items()})
    ours, theirs = sides
    return sum(huber(ours[pair] - theirs[pair]) for pair in ours) / (len(g.lengths) - 1)


def rkd_angle(g: Given) -> float:
    ours, theirs = g.both("embedding_BE")
    n = len(ours)
    total = 0.0
    for j in range(n):
        triples = [(i, k) for i in range(n) for k in range(n) if len({i, j, k}) == 3]
        angles = [[cosine(e[i] - e[j], e[k] - e[j]) for i, k in triples] for e in (ours, theirs)]
        total += sum(huber(a - b) for a, b in zip(*angles, strict=True)) / len(triples)
    return total


def similarity_kl(g: Given) -> float:
    ours, theirs = g.both("embedding_BE")
    total = 0.0
    for i in range(len(ours)):
        rows = []
        for e in (theirs, ours):
            others = [j for j in range(len(e)) if j != i]
            rows.append(softmax([(cosine(e[i], e[j]) if g.p.normalize else e[i] @ e[j]) / g.tau for j in others]))
        total += kl(*rows)
    return g.tau**2 * total


def similarity_preserving(g: Given) -> float:
    rows = []
    for e in g.both("embedding_BE"):
        gram = [[float(a @ b) for b in e] for a in e]
        rows.append(np.array([np.array(row) / np.linalg.norm(row) for row in gram]))
    return float(np.sum((rows[0] - rows[1]) ** 2)) / len(g.lengths)


# -- ranking -----------------------------------------------------------------------------------------------------------


def listnet(g: Given) -> float:
    total = 0.0
    for ours, theirs in g.groups("student", "teacher"):
        p, q = softmax(theirs / (g.p.teacher_temperature or g.tau)), softmax(ours / g.tau)
        total -= g.tau**2 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    return total


def listmle(g: Given) -> float:
    total = 0.0
    for ours, theirs in g.groups("student", "teacher"):
        left = sorted(range(len(ours)), key=lambda k: -theirs[k])
        for _ in range(min(len(left), g.p.top_k or len(left))):
            total -= math.log(math.exp(ours[left[0]]) / sum(math.exp(ours[k]) for k in left))
            left = left[1:]
    return total


def ranknet(g: Given) -> float:
    total = 0.0
    for ours, theirs in g.groups("student", "teacher"):
        gaps = {
            (i, j): theirs[i] - theirs[j] for i in range(len(ours)) for j in range(len(ours)) if theirs[i] - theirs[j] > g.p.min_gap
        }
        for (i, j), gap in gaps.items():
            weight = gap / sum(gaps.values()) if g.p.weights == "gap" else 1 / len(gaps)
            total += weight * math.log(1 + math.exp(g.p.margin - (ours[i] - ours[j])))
    return total


def margin_mse(g: Given) -> float:
    total = 0.0
    for ours, theirs in g.groups("student", "teacher"):
        n, best = len(ours), int(np.argmax(theirs))
        pairs = [(i, j) for i in range(n) for j in range(i)] if g.p.pairs == "all" else [(best, j) for j in range(n) if j != best]
        errors = [((ours[i] - ours[j]) - g.p.teacher_scale * (theirs[i] - theirs[j])) ** 2 for i, j in pairs]
        total += float(np.mean(errors)) if errors else 0.0
    return total


# -- oneself -----------------------------------------------------------------------------------------------------------


def early_exit(g: Given, frozen: Signals | None = None) -> float:
    """`frozen`: where the model's own answer and last state are taken from, while the rest changes."""
    fixed = frozen or g.student
    logits, deepest = array(fixed.logits_NC), array(fixed.hidden[g.objective.last])
    total, alpha, tau = 0.0, g.p.alpha, g.tau
    for i in g.objective.exits:
        for b, n in enumerate(g.lengths):
            state = g.linear(f"state_{i}", array(g.student.hidden[i])[b, :n].mean(0))
            z, y = g.linear(f"exit_{i}", state), g.labels[b]
            if g.batch.problem == "multi_label":
                for c, label in enumerate(y):
                    if not math.isnan(label):
                        total -= (1 - alpha) * math.log(sigmoid(z[c] if label else -z[c]))
                    pair = [[sigmoid(v / tau), sigmoid(-v / tau)] for v in (logits[b, c], z[c])]
                    total += alpha * tau**2 * kl(*pair)
            else:
                total -= (1 - alpha) * math.log(softmax(z)[int(y)]) if y != NO_LABEL else 0.0
                total += alpha * tau**2 * kl(softmax(logits[b] / tau), softmax(z / tau))
            total += g.p.feature_weight * float(np.sum((state - deepest[b, :n].mean(0)) ** 2))
    return total / len(g.objective.exits)


FORMULAS: dict[str, Callable[[Given], float]] = {
    f.__name__: f
    for f in (
        hard_label, masked_lm, hard_rank, hard_similarity, response, dist, hidden_mse, hidden_cosine, pkd, cka, attention_mse,
        minilm, minilmv2, embedding_mse, embedding_cosine, infonce, rkd_distance, rkd_angle, similarity_kl, similarity_preserving,
        listnet, listmle, ranknet, margin_mse, early_exit,
    )
}  # fmt: skip


def expected(objective: Objective, student: Signals, teacher: Signals | None, batch: Batch, x: float) -> float:
    return FORMULAS[objective.name](Given(objective, student, teacher, batch, x))

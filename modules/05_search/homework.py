# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# course: {module: 05_search, kind: homework, title_en: "Homework 05: mend the search box", title_zh: "作业 05：修好搜索框", minutes: 120}
# ---
# %% [markdown] lang="en"
# # Homework 05: mend Persimmon's search box
#
# Persimmon is a general store on the web. Its shoppers type *couch*; its sellers write *sofa*; its search box compares letters,
# finds nothing and sends them to a competitor. In six exercises you build the parts of a better one, and in the seventh you
# decide, in writing, which of them are worth their money. Each exercise stands alone: skip one and go on.
#
# Below each exercise stand its tests; `check("bm25")` runs them and says what to look at. Stuck? `hint("bm25")` gives one step at a time.
# When your work is graded, hidden tests ask for the same properties on fresh data. The first exercises leave you a line or two; the
# last ones leave you a blank page.
# %% [markdown] lang="zh" of="510be4c7"
# # 作业 05：修好柿集的搜索框
#
# 柿集是一家综合电商。用户搜的是 *couch*，卖家写的是 *sofa*；搜索框只会比对字面，一件也找不出来，用户转身就去了别家。
# 前六题，你来动手做一个更好的搜索框的各个部件；第七题用文字回答：这些部件里，哪些值得花这笔钱。
# 各题互不依赖，卡住了可以先跳过。
#
# 每题下面都附有测试；运行 `check("bm25")` 会替你跑一遍，并指出该看哪里。没有思路时运行 `hint("bm25")`，提示一次只给一步。
# 评分时还有隐藏测试，用新的数据检查同样的性质。开头几题只空一两行，越往后空得越多，最后几题要从空白写起。
# %% lang="en"
from labkit.learn import begin, check, hint

begin("05_search", lang="en")
# %% lang="zh"
from labkit.learn import begin, check, hint

begin("05_search", lang="zh")
# %%
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import torch

from labkit.device import choose_device
from labkit.models import BiEncoder


# %% [markdown] lang="en"
# ## 1. BM25, to the last digit
#
# Counting matching words rewards the seller who writes *sofa sofa sofa*. BM25 mends that with three ideas: a rare word says more
# than a common one (the logarithm below), the second repetition says less than the first (`k1`), and a long text contains any
# word more easily than a short one (`b`). The score of document $d$ for query $q$ is
#
# $$s(q,d)=\sum_{t\in q}\;\ln\!\Big(1+\frac{N-n_t+0.5}{n_t+0.5}\Big)\;\frac{f_{t,d}}{f_{t,d}+k_1\,(1-b+b\,|d|/\bar\ell)}$$
#
# All symbols are numbers: $N$ documents, $n_t$ of which contain the word $t$; $f_{t,d}$ is how often $t$ stands in $d$; $|d|$ is the
# length of $d$ in words and $\bar\ell$ the average length. A word typed twice counts twice. **Fill in the body of the loop.**
# %% [markdown] lang="zh" of="03d1dfc1"
# ## 1. BM25：一位小数都不差
#
# 如果只数命中了几个词，那么把 *sofa sofa sofa* 连写三遍的卖家就赢了。BM25 用三个想法来纠正：越少见的词越有区分度（下式中的对数项）；
# 同一个词第二次出现，带来的信息比第一次少（词频饱和，`k1`）；文档越长，碰巧命中的机会越大（长度归一，`b`）。文档 $d$ 对查询 $q$ 的得分为
#
# $$s(q,d)=\sum_{t\in q}\;\ln\!\Big(1+\frac{N-n_t+0.5}{n_t+0.5}\Big)\;\frac{f_{t,d}}{f_{t,d}+k_1\,(1-b+b\,|d|/\bar\ell)}$$
#
# 式中各量都是标量：共有 $N$ 篇文档，其中 $n_t$ 篇含有词 $t$；$f_{t,d}$ 是 $t$ 在 $d$ 中出现的次数；$|d|$ 是 $d$ 的词数，$\bar\ell$ 是全部文档的平均词数。
# 查询里同一个词写了两遍，就算两遍。**请补全循环体。**
# %% exercise="bm25" role="solution"
def bm25_scores(query, documents, k1=1.2, b=0.75):
    """BM25 score of every document for one query.

    query: list of words. documents: list of lists of words. Returns an array of len(documents) floats.
    """
    counts = [Counter(document) for document in documents]  # f_{t,d}: counts[d][t]
    lengths = np.array([len(document) for document in documents], dtype=float)  # (N,)
    average = lengths.mean()
    scores = np.zeros(len(documents))  # (N,)
    for word in query:
        ### BEGIN SOLUTION
        frequency = np.array([count[word] for count in counts], dtype=float)  # (N,)
        containing = np.count_nonzero(frequency)
        idf = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))
        ### END SOLUTION
    return scores


# %% exercise="bm25" role="test" points=1
import numpy as np


def scores(query, documents):
    found = np.asarray(bm25_scores(query, documents), dtype=float)
    assert found.shape == (len(documents),), "@shape"
    return found


shelf = [["red", "sofa"], ["red", "sofa", "sofa"], ["red", "chandelier"], ["red", "oak", "chair", "set"]]
common = scores(["red"], shelf)
assert (common > 0).all(), "@negative_idf"
twin = [["red", "sofa"], ["red", "sofa", "oval"], ["red", "chandelier"], ["red", "oak", "chair", "set"]]
assert np.isclose(scores(["sofa"], shelf)[0], scores(["sofa"], twin)[0]), "@occurrences"
stuffed = [["sofa", "oak", "oak", "oak"], ["sofa", "sofa", "oak", "oak"], ["lamp", "oak", "oak", "oak"]]
once, twice, _ = scores(["sofa"], stuffed)
assert once < twice < 1.99 * once, "@saturation"
assert common[0] > common[3], "@length"
assert np.isclose(common[0], common[2]), "@length"
assert np.allclose(scores(["sofa", "sofa"], twin), 2 * scores(["sofa"], twin)), "@repeated_word"
# "chandelier" stands once, in one of four documents; that document has 2 words and the average has 2.75.
by_hand = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5)) * 1 / (1 + 1.2 * (1 - 0.75 + 0.75 * 2 / 2.75))
assert np.allclose(scores(["chandelier"], shelf), [0, 0, by_hand, 0]), "@formula"
# %% exercise="bm25" role="hidden" points=2
import math
import os

import numpy as np

rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
words = [
    f"{stem}{number}" for number, stem in enumerate(["a", "lamp", "chair", "bookcase", "upholstered"] * 6)
]
chance = 1 / np.arange(1, len(words) + 1)
chance /= chance.sum()


def draw(low, high):
    return [str(word) for word in rng.choice(words, size=int(rng.integers(low, high)), p=chance)]


def reference(query, documents, k1, b):
    average = sum(len(document) for document in documents) / len(documents)
    found = []
    for document in documents:
        total = 0.0
        for word in query:
            n = sum(word in other for other in documents)
            f = document.count(word)
            if f:
                total += (
                    math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
                    * f
                    / (f + k1 * (1 - b + b * len(document) / average))
                )
        found.append(total)
    return found


def scores(query, documents, **options):
    found = np.asarray(bm25_scores(query, documents, **options), dtype=float)
    assert found.shape == (len(documents),), "@shape"
    return found


# A word that stands in every document still adds a little.
everywhere = [["the", *draw(1, 9)] for _ in range(12)]
assert scores(["the"], everywhere).min() > 0, "@negative_idf"
# Repeating a word in another document of the same length leaves this document alone.
plain = [["rug", "mat"], ["rug", "pad", "pad", "pad"]] + [["mat"] * int(rng.integers(1, 6)) for _ in range(5)]
loud = [plain[0], ["rug", "rug", "rug", "pad"], *plain[2:]]
assert np.isclose(scores(["rug"], plain)[0], scores(["rug"], loud)[0]), "@occurrences"
# Ten times the word is worth less than twice as much, at k1 = 1.2 and average length.
ladder = [["rug"] * n + ["mat"] * (20 - n) for n in (1, 10, 0, 0, 0)]
low, high = scores(["rug"], ladder)[:2]
assert low < high < 2.2 * low, "@saturation"
# Length is counted in words: more words, less score; longer words, the same score.
filler = int(rng.integers(3, 9))
shapes = [["rug", "x"], ["rug", *["x"] * filler], ["rug", "upholstered-armchair"]]
short, long, wordy = scores(["rug"], shapes)
assert short > long and np.isclose(short, wordy), "@length"
corpus = [draw(2, 14) for _ in range(40)]
word = corpus[0][0]
assert np.allclose(scores([word] * 3, corpus), 3 * scores([word], corpus)), "@repeated_word"
for k1, b in [(1.2, 0.75), (0.9, 0.4), (2.0, 1.0)]:
    query = [*draw(1, 4), "unheard"]
    want = reference(query, corpus, k1, b)
    assert np.allclose(scores(query, corpus, k1=k1, b=b), want, rtol=1e-9), "@formula"


# %% [markdown] exercise="bm25" hint="1" lang="en"
# For one word you need one number for the whole shop ($n_t$, hence the logarithm) and one per document ($f_{t,d}$). `counts[d][word]` is $f_{t,d}$, and 0 when the word is absent.
# %% [markdown] exercise="bm25" hint="1" lang="zh" of="367dfb89"
# 对每个词，要算一个全站共用的数（$n_t$，从而得到对数项），再为每篇文档算一个数（$f_{t,d}$）。`counts[d][word]` 就是 $f_{t,d}$，词没出现时为 0。
# %% [markdown] exercise="bm25" hint="2" lang="en"
# Collect $f_{t,d}$ of all documents in one array `frequency` of shape (N,). Then $n_t$ is how many of its entries are above 0, and the whole formula can be written once for all documents.
# %% [markdown] exercise="bm25" hint="2" lang="zh" of="4a9c1a17"
# 先把所有文档的 $f_{t,d}$ 收进一个形状为 (N,) 的数组 `frequency`。$n_t$ 就是其中大于 0 的个数，整条公式对全部文档一次就能算完。
# %% [markdown] exercise="bm25" hint="3" lang="en"
# `scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))`, with `idf = np.log(1 + (N - n + 0.5) / (n + 0.5))`.
# %% [markdown] exercise="bm25" hint="3" lang="zh" of="c4a3a4e4"
# `scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))`，其中 `idf = np.log(1 + (N - n + 0.5) / (n + 0.5))`。
# %% [markdown] exercise="bm25" hint="shape" lang="en"
# The result is one array of `len(documents)` numbers, shape (N,): one score per document, in the order of the documents, zeros included.
# %% [markdown] exercise="bm25" hint="shape" lang="zh" of="55499319"
# 应当返回一个形状为 (N,) 的数组，共 `len(documents)` 个数：每篇文档一个得分，顺序与文档一致，得 0 分的也要占一个位置。
# %% [markdown] exercise="bm25" hint="negative_idf" lang="en"
# A word that stands in every document must still add a little, never subtract. The older idf, $\ln\frac{N-n+0.5}{n+0.5}$, turns negative for words in more than half of the documents; Lucene's has $1+$ inside the logarithm.
# %% [markdown] exercise="bm25" hint="negative_idf" lang="zh" of="c7594e9b"
# 每篇文档都有的词，也应当加一点分，绝不能倒扣。早期的 idf 写作 $\ln\frac{N-n+0.5}{n+0.5}$，词出现在过半文档里就会变成负数；Lucene 的写法在对数里多了一个 $1+$。
# %% [markdown] exercise="bm25" hint="occurrences" lang="en"
# $n_t$ counts documents, not occurrences: a seller who repeats a word five times in one title makes it no more common in the shop.
# %% [markdown] exercise="bm25" hint="occurrences" lang="zh" of="792ddc27"
# $n_t$ 数的是文档，不是出现次数：某个卖家在一条标题里把词写了五遍，这个词在全站并没有因此变得更常见。
# %% [markdown] exercise="bm25" hint="saturation" lang="en"
# Twice the word must be worth less than twice the score. The frequency belongs in the numerator *and* in the denominator, where `k1` decides how fast it saturates.
# %% [markdown] exercise="bm25" hint="saturation" lang="zh" of="25200f02"
# 词出现两次，得分应当不到一次的两倍。词频在分子和分母里都要有，`k1` 决定它多快饱和。
# %% [markdown] exercise="bm25" hint="length" lang="en"
# With the same matches, the document with fewer *words* must win, and longer words must change nothing. Is $|d|$ in your formula, divided by the average, and is it counted in words?
# %% [markdown] exercise="bm25" hint="length" lang="zh" of="f53b7d52"
# 命中相同的情况下，**词数**少的文档应当得分更高，而词本身长短不该有影响。公式里用到 $|d|$ 了吗？除以平均长度了吗？是按词数而不是按字符数算的吗？
# %% [markdown] exercise="bm25" hint="repeated_word" lang="en"
# The sum runs over the words as typed. A word typed three times is added three times; a `set` forgets that.
# %% [markdown] exercise="bm25" hint="repeated_word" lang="zh" of="8e97180d"
# 求和是按用户输入的词逐个进行的：同一个词输入三遍就加三遍。用 `set` 去重就把这个信息丢了。
# %% [markdown] exercise="bm25" hint="formula" lang="en"
# The behaviour is right but the digits are not. Compare term by term: the natural logarithm, the two 0.5, and no factor $(k_1+1)$ in the numerator (Lucene dropped it, since a constant changes no order).
# %% [markdown] exercise="bm25" hint="formula" lang="zh" of="e79bb11e"
# 大方向对了，但数值对不上。请逐项核对：对数是自然对数；两处 0.5；分子里没有 $(k_1+1)$（Lucene 已经去掉了它，因为乘一个常数不影响排序）。
# %% [markdown] lang="en"
# ## 2. One list out of two: reciprocal rank fusion
#
# Keyword search and semantic search each return a ranked list, with scores on scales that cannot be compared. Reciprocal rank
# fusion looks at the ranks alone. With $m$ lists, and $r_i(p)$ the rank of product $p$ in list $i$ (the first has rank 1),
#
# $$\mathrm{RRF}(p)=\sum_{i\,:\,p\in \text{list } i}\frac{1}{k+r_i(p)}$$
#
# A list that does not contain $p$ adds nothing. The constant $k=60$ keeps one first place from outvoting two decent places.
# **Fill in the loop, then sort:** best first, of equal scores the smaller id first, and only then keep `depth` of them.
# %% [markdown] lang="zh" of="2b1ee50f"
# ## 2. 两路召回合成一路：倒数排名融合（RRF）
#
# 关键词召回和语义召回各给出一个排好序的列表，可两边的分数量纲不同，没法直接相加。倒数排名融合只看名次。
# 设有 $m$ 个列表，商品 $p$ 在第 $i$ 个列表中的名次为 $r_i(p)$（第一名记为 1），则
#
# $$\mathrm{RRF}(p)=\sum_{i\,:\,p\in \text{列表 } i}\frac{1}{k+r_i(p)}$$
#
# 某个列表里没有 $p$，这一路就不加分。常数 $k=60$ 的作用是：不让单独一个第一名压过两个还不错的名次。
# **请补全循环，再排序：** 得分高的在前，同分时编号小的在前，最后才截取前 `depth` 个。
# %% exercise="rrf" role="solution"
def rrf(rankings, k=60, depth=10):
    """Fuse ranked lists of product ids.

    rankings: list of lists of ids, each best first. Returns at most depth pairs (id, score), best first.
    """
    scores = defaultdict(float)  # id -> RRF score
    for ranking in rankings:
        ### BEGIN SOLUTION
        for rank, product in enumerate(ranking, start=1):
            scores[product] += 1 / (k + rank)
        ### END SOLUTION
    ### BEGIN SOLUTION
    fused = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return fused[:depth]
    ### END SOLUTION


# %% exercise="rrf" role="test" points=1
import numpy as np

keyword, semantic = [7, 3, 9], [4, 3, 8, 7]
assert np.shape([score for _, score in rrf([keyword])]) == (3,), "@shape"
alone = dict(rrf([keyword]))
assert np.isclose(alone[7], 1 / 61) and np.isclose(alone[9], 1 / 63), "@zero_based"
both = dict(rrf([keyword, semantic]))
assert np.isclose(both[9], 1 / 63) and np.isclose(both[4], 1 / 61), "@absent"
assert np.isclose(both[3], 1 / 62 + 1 / 62), "@sum"
assert [product for product, _ in rrf([[5, 6], [2, 8]])] == [2, 5, 6, 8], "@ties"
assert [product for product, _ in rrf([keyword, semantic], depth=1)] == [3], "@cut_early"
# %% exercise="rrf" role="hidden" points=2
import os

import numpy as np

rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))


def reference(rankings, k):
    ids = {product for ranking in rankings for product in ranking}
    return {p: sum(1 / (k + ranking.index(p) + 1) for ranking in rankings if p in ranking) for p in ids}


def some(low, high, pool=60):
    return rng.permutation(pool)[: int(rng.integers(low, high))].tolist()


one = some(5, 9)
shares = [score for _, score in rrf([one], k=10)]
assert np.shape(shares) == (len(one),), "@shape"
assert np.allclose(shares, [1 / (10 + r) for r in range(1, len(one) + 1)]), "@zero_based"
left = some(6, 12, pool=40)
right = [product + 100 for product in some(3, 6, pool=40)]  # no product in common
fused = dict(rrf([left, right], depth=99))
assert np.isclose(fused[left[-1]], 1 / (60 + len(left))), "@absent"
assert np.isclose(fused[right[0]], 1 / 61), "@absent"
lists = [some(15, 30), some(15, 30), some(5, 12)]
want = reference(lists, 60)
got = dict(rrf(lists, depth=200))
assert got.keys() == want.keys() and all(np.isclose(got[p], want[p]) for p in want), "@sum"
swapped = rng.permutation(30)[:8].tolist()
order = [product for product, _ in rrf([swapped, swapped[::-1]], k=0, depth=8)]
exact = reference([swapped, swapped[::-1]], 0)
assert order == sorted(swapped, key=lambda p: (-round(exact[p], 12), p)), "@ties"
for depth in (1, 3, 7):
    order = [product for product, _ in rrf(lists, k=20, depth=depth)]
    exact = reference(lists, 20)
    assert order == sorted(exact, key=lambda p: (-round(exact[p], 12), p))[:depth], "@cut_early"


# %% [markdown] exercise="rrf" hint="1" lang="en"
# Walk through one list with `enumerate` and add a share to each product you meet. Products you do not meet need no line of code: a `defaultdict` starts at 0.
# %% [markdown] exercise="rrf" hint="1" lang="zh" of="9d49fc8e"
# 用 `enumerate` 走一遍列表，碰到哪个商品就给它加一份分。没碰到的商品不用管：`defaultdict` 默认从 0 开始。
# %% [markdown] exercise="rrf" hint="2" lang="en"
# `enumerate(ranking, start=1)` gives the rank that the formula means. After the loop, sort `scores.items()` by two keys: score descending, id ascending.
# %% [markdown] exercise="rrf" hint="2" lang="zh" of="2095d09d"
# `enumerate(ranking, start=1)` 给出的正是公式里的名次。循环结束后，对 `scores.items()` 按两个键排序：得分降序、编号升序。
# %% [markdown] exercise="rrf" hint="3" lang="en"
# `scores[product] += 1 / (k + rank)` in the loop; then `sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:depth]`.
# %% [markdown] exercise="rrf" hint="3" lang="zh" of="683ac540"
# 循环里写 `scores[product] += 1 / (k + rank)`；最后返回 `sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:depth]`。
# %% [markdown] exercise="rrf" hint="shape" lang="en"
# The result is a list of pairs (id, score), one for each different product as long as `depth` allows it; each score is a single number.
# %% [markdown] exercise="rrf" hint="shape" lang="zh" of="53ccaa77"
# 应当返回由（编号，得分）二元组组成的列表：每个不同的商品一组，至多 `depth` 组；每个得分都是单独一个数。
# %% [markdown] exercise="rrf" hint="zero_based" lang="en"
# The first product of a list has rank 1, so it earns $1/(k+1)$. `enumerate` counts from 0 unless told otherwise.
# %% [markdown] exercise="rrf" hint="zero_based" lang="zh" of="fafe3824"
# 列表里第一个商品的名次是 1，得 $1/(k+1)$ 分。`enumerate` 不加参数时从 0 数起。
# %% [markdown] exercise="rrf" hint="absent" lang="en"
# A product that one list does not contain gets nothing from that list: not a share for "last place + 1", and not a penalty. Its score is the sum over the lists that do contain it.
# %% [markdown] exercise="rrf" hint="absent" lang="zh" of="11c9ffe2"
# 某一路没有召回这个商品，这一路就一分不加：既不能当作“最后一名之后”给分，也不能扣分。它的得分只来自召回了它的那几路。
# %% [markdown] exercise="rrf" hint="sum" lang="en"
# Being found by two lists is the evidence that fusion is after, so shares are added. The best share, or the average, throws it away.
# %% [markdown] exercise="rrf" hint="sum" lang="zh" of="d3830fa3"
# 同时被两路召回，正是融合要利用的证据，所以各路得分要相加；只取最高的一路或取平均，就把这份证据扔掉了。
# %% [markdown] exercise="rrf" hint="ties" lang="en"
# Two products with the same score must come in the same order every time, or no two runs of an experiment agree. Here: the smaller id first.
# %% [markdown] exercise="rrf" hint="ties" lang="zh" of="41eb8a50"
# 同分商品的先后必须固定，否则同一个实验跑两次结果都对不上。本题约定：编号小的在前。
# %% [markdown] exercise="rrf" hint="cut_early" lang="en"
# A product ranked second by both lists may beat both winners. Cut to `depth` after fusing, not before.
# %% [markdown] exercise="rrf" hint="cut_early" lang="zh" of="3d46f3ec"
# 两路都排第二的商品，可能胜过各自的第一名。先融合，再截取 `depth` 个；顺序不能反。
# %% [markdown] lang="en"
# ## 3. Hard negatives that are really negative
#
# A model learns most from mistakes that look right: for *waterproof watch*, a watch that merely looks sporty. So we take the
# products that the current model scores highest and that are not known to be right. But logs are incomplete: the very top is full
# of right products nobody has clicked yet, and training against those teaches the model a lie. The remedy (NV-Retriever, 2024):
# a negative may score at most `share` = 95 % of the score $s^+$ of the pair's own positive.
#
# `scores` is (Q, N), one row per training pair; `positive[i]` is the product of pair $i$; `known[i]` is the set of all products known
# to be right for its query. **Return for each pair at most `count` product ids, highest score first.** Fewer are fine; wrong ones are not.
# %% [markdown] lang="zh" of="c5cf1af5"
# ## 3. 挖难负样本，别挖到假负样本
#
# 最能教会模型的，是那些“看着像对、其实不对”的商品：搜 *waterproof watch*，出来一块只是外形运动的表。所以我们取当前模型打分最高、
# 又不在已知正样本里的商品。麻烦在于日志是不完整的：排在最前面的往往本来就相关，只是还没人点过，拿它们当负样本等于教模型说谎。
# NV-Retriever（2024）的办法是：负样本的得分不得超过本对正样本得分 $s^+$ 的 `share`（95 %）。
#
# `scores` 形状为 (Q, N)，每个训练对一行；`positive[i]` 是第 $i$ 对的正样本商品；`known[i]` 是该查询全部已知正样本的集合。
# **请为每个训练对返回至多 `count` 个商品编号，得分高的在前。** 宁缺毋滥：凑不够就少给。
# %% exercise="hard_negatives" role="solution"
def hard_negatives(scores, positive, known, count=4, share=0.95):
    """Hard negatives of each training pair: a list of Q lists of product ids, hardest first."""
    chosen = []
    for row, own, right in zip(scores, positive, known, strict=True):
        row = np.asarray(row)  # (N,)
        ### BEGIN SOLUTION
        limit = share * row[own]
        order = np.argsort(-row, kind="stable")
        usable = [int(product) for product in order if row[product] <= limit and int(product) not in right]
        chosen.append(usable[:count])
        ### END SOLUTION
    return chosen


# %% exercise="hard_negatives" role="test" points=1
import numpy as np

#                 0     1     2     3     4     5     6     7
row = np.array([0.90, 0.88, 0.84, 0.83, 0.70, 0.50, 0.30, 0.10])
# Product 0 is the pair's positive and 3 another known one; the limit is 0.95 * 0.90 = 0.855.
plain = list(hard_negatives(np.array([row]), np.array([0]), [{0, 3}], count=3)[0])
assert list(hard_negatives(20 * row[None], np.array([0]), [{0, 3}], count=3)[0]) == plain, "@fixed_limit"
assert plain == sorted(plain, key=lambda product: -row[product]) and 7 not in plain, "@easy"
assert 1 not in plain, "@false_negative"
assert 3 not in plain, "@known"
assert plain == [2, 4, 5], "@easy"
crowded = np.array([[0.5, 0.6, 0.7, 0.2, 0.49]])
assert [list(found) for found in hard_negatives(crowded, np.array([0]), [{0}], count=3)] == [[3]], "@fill_up"
# %% exercise="hard_negatives" role="hidden" points=2
import os

import numpy as np

rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
pairs, products = 12, 80
scores = rng.uniform(0.05, 0.8, size=(pairs, products))
positive = rng.integers(0, products, size=pairs)
known = []
for i in range(pairs):
    scores[i, positive[i]] = rng.uniform(0.7, 0.9)  # the model already likes the positive
    also = rng.choice(np.flatnonzero(scores[i] < 0.9 * scores[i, positive[i]])[:40], size=3, replace=False)
    top = int(np.argmax(np.where(scores[i] <= 0.9 * scores[i, positive[i]], scores[i], -1)))
    known.append({int(positive[i]), top, *map(int, also)})
    free = next(p for p in range(products) if p not in known[i])
    scores[i, free] = 0.99 * scores[i, positive[i]]  # right, most likely, but nobody has clicked it


def reference(row, own, right, count, share):
    pool = [(-float(row[p]), p) for p in range(len(row)) if p not in right and row[p] <= share * row[own]]
    return [p for _, p in sorted(pool)[:count]]


want = [reference(scores[i], positive[i], known[i], 5, 0.95) for i in range(pairs)]
got = [list(map(int, found)) for found in hard_negatives(scores, positive, known, count=5)]
scaled = [list(map(int, found)) for found in hard_negatives(scores * 30, positive, known, count=5)]
assert scaled == got, "@fixed_limit"
assert all(f == sorted(f, key=lambda p: -scores[i, p]) for i, f in enumerate(got)), "@easy"
assert all(
    min(scores[i, f], default=1) >= min(scores[i, w]) - 1e-12 for i, (f, w) in enumerate(zip(got, want))
), "@easy"
assert all((scores[i, f] <= 0.95 * scores[i, positive[i]]).all() for i, f in enumerate(got)), (
    "@false_negative"
)
assert all(not known[i] & set(f) for i, f in enumerate(got)), "@known"
assert got == want, "@easy"
tight = np.sort(rng.uniform(0.5, 0.6, size=(3, 9)), axis=1)
tight[:, :2] = rng.uniform(0.1, 0.2, size=(3, 2))
found = hard_negatives(tight, np.array([2, 2, 2]), [{2}] * 3, count=4)
assert [sorted(map(int, f)) for f in found] == [[0, 1]] * 3, "@fill_up"


# %% [markdown] exercise="hard_negatives" hint="1" lang="en"
# Three questions per product, in any order: is it known to be right? Is it too close to the positive? Is it among the best of what is left?
# %% [markdown] exercise="hard_negatives" hint="1" lang="zh" of="141f1fbc"
# 对每个商品问三件事，先后不限：它是不是已知正样本？得分是不是离正样本太近？在剩下的里面排得够不够靠前？
# %% [markdown] exercise="hard_negatives" hint="2" lang="en"
# `np.argsort(-row, kind="stable")` lists the products from the highest score down. Keep those with `row[product] <= share * row[own]` that are not in `right`, then cut.
# %% [markdown] exercise="hard_negatives" hint="2" lang="zh" of="de55d9b7"
# `np.argsort(-row, kind="stable")` 按得分从高到低列出商品。保留满足 `row[product] <= share * row[own]` 且不在 `right` 里的，最后截取。
# %% [markdown] exercise="hard_negatives" hint="3" lang="en"
# `usable = [int(p) for p in order if row[p] <= limit and int(p) not in right]`, then `chosen.append(usable[:count])`.
# %% [markdown] exercise="hard_negatives" hint="3" lang="zh" of="c0ef2aa6"
# `usable = [int(p) for p in order if row[p] <= limit and int(p) not in right]`，然后 `chosen.append(usable[:count])`。
# %% [markdown] exercise="hard_negatives" hint="fixed_limit" lang="en"
# The limit moves with the pair: 95 % of *its positive's* score. A fixed number such as 0.95 means nothing once scores have another scale; multiplying all scores by 20 must change nothing.
# %% [markdown] exercise="hard_negatives" hint="fixed_limit" lang="zh" of="e5df1c9c"
# 上限因训练对而异：是**这一对正样本得分**的 95 %。写死一个 0.95，分数换个量纲就失去意义；所有得分乘以 20，结果应当不变。
# %% [markdown] exercise="hard_negatives" hint="false_negative" lang="en"
# A product that scores nearly as high as the positive is probably right, and merely has no click yet. It must not become a negative: stay at or below `share` times the positive's score.
# %% [markdown] exercise="hard_negatives" hint="false_negative" lang="zh" of="67aaec11"
# 得分和正样本几乎一样高的商品，多半本来就相关，只是还没人点，这叫假负样本，不能拿来训练：得分必须不超过正样本得分的 `share` 倍。
# %% [markdown] exercise="hard_negatives" hint="known" lang="en"
# A query has several right products. Leave out all of `known[i]`, not only the one this pair happens to hold.
# %% [markdown] exercise="hard_negatives" hint="known" lang="zh" of="d8ad6f6f"
# 一个查询往往有好几个正样本。`known[i]` 里的要全部排除，不能只排除这一对自己的那个。
# %% [markdown] exercise="hard_negatives" hint="easy" lang="en"
# Hard means high-scoring. Among the allowed products take the ones with the *highest* scores, in that order; a lamp teaches nothing about watches.
# %% [markdown] exercise="hard_negatives" hint="easy" lang="zh" of="d0519e40"
# “难”就是得分高。要在允许的商品里取得分**最高**的几个，并按得分从高到低给出；拿台灯当手表的负样本，模型学不到东西。
# %% [markdown] exercise="hard_negatives" hint="fill_up" lang="en"
# When fewer than `count` products are allowed, return fewer. Filling up with products above the limit brings the false negatives back in.
# %% [markdown] exercise="hard_negatives" hint="fill_up" lang="zh" of="66bd9686"
# 符合条件的不足 `count` 个时，有几个给几个。硬要凑数，就会把超过上限的假负样本又放回来。
# %% [markdown] lang="en"
# ## 4. A click feature that knows nothing of the future
#
# The best single feature of most rankers is: how often was this product clicked for this query? Three traps make it look better
# offline than it is. It must use only what was logged **before** the request, not the click we want to predict. A product shown
# once needs a **prior**, not a rate of 0 or 100 %. And a product shown in tenth place was mostly not seen at all, so impressions
# are weighed by $e_p$, the probability that a shopper looks at position $p$ (a list of 10 numbers, for positions 1 to 10):
#
# $$x=\frac{\alpha\,\pi+\text{clicks}}{\alpha+\sum_{\text{impressions}} e_p}$$
#
# All are numbers: $\pi$ is `prior`, $\alpha$ is `strength`, how many looks the prior is worth; the sum and the clicks run over the rows of `log`
# with the request's query and product and an earlier time. Rates above 1 can happen; leave them. **Write the function.**
# %% [markdown] lang="zh" of="0df22edf"
# ## 4. 点击特征：不许偷看未来
#
# 精排里最管用的单个特征，往往就是“这个商品在这个查询下被点得多不多”。但有三个坑，会让它离线看着漂亮、上线就露馅：
# 只能用**请求发生之前**的点击日志，要预测的那次点击当然不能算进去；只曝光过一次的商品需要**先验**，不能直接得出 0 或 100 %；
# 排在第十位的商品大多根本没被看到（位置偏差），所以曝光要按 $e_p$ 加权，即第 $p$ 位的浏览概率（10 个数，对应第 1 到第 10 位）：
#
# $$x=\frac{\alpha\,\pi+\text{点击数}}{\alpha+\sum_{\text{曝光}} e_p}$$
#
# 各量都是标量：$\pi$ 是 `prior`；$\alpha$ 是 `strength`，表示先验相当于多少次“看到”；点击数与求和都只取 `log` 中
# 查询、商品与请求相同且时间更早的行。结果偶尔会大于 1，保留即可。**请写出整个函数。**
# %% exercise="ctr_feature" role="solution"
def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    """Smoothed, position-corrected click rate of each request's (query, product), from earlier rows of the log only.

    log: polars frame with query_id, product_id, time, position (1 to 10), clicked (bool).
    requests: polars frame with query_id, product_id, time. examine: list of 10 probabilities.
    Returns an array of floats, one per row of requests and in their order.
    """
    ### BEGIN SOLUTION
    looks = pl.Series("looks", examine)
    log = log.with_columns(look=looks.gather(log["position"] - 1), seen="time").drop("time")
    rows = requests.with_row_index("row").join(log, on=["query_id", "product_id"])
    sums = (
        rows.filter(pl.col("seen") < pl.col("time"))
        .group_by("row")
        .agg(pl.col("clicked").sum().cast(pl.Float64), pl.col("look").sum())
    )
    clicks, seen = np.zeros(len(requests)), np.zeros(len(requests))
    clicks[sums["row"]] = sums["clicked"]
    seen[sums["row"]] = sums["look"]
    return (strength * prior + clicks) / (strength + seen)
    ### END SOLUTION


# %% exercise="ctr_feature" role="test" points=1
from datetime import datetime

import numpy as np
import polars as pl

look = [1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1]
at = [datetime(2025, 3, day) for day in range(1, 8)]  # at[0] is 1 March
names = ["query_id", "product_id", "time", "position", "clicked"]
columns = dict(zip(names, [pl.Int32, pl.Int32, pl.Datetime, pl.Int16, pl.Boolean]))
log = pl.DataFrame(
    [(5, 40, at[1], 1, True), (5, 41, at[2], 5, True), (5, 40, at[3], 5, False), (6, 42, at[2], 1, True)],
    schema=columns,
    orient="row",
)


def asked(*rows):
    keys = {name: columns[name] for name in names[:3]}
    frame = pl.DataFrame(list(rows), schema=keys, orient="row")
    found = np.asarray(click_feature(log, frame, look, prior=0.1, strength=20.0), dtype=float)
    assert found.shape == (len(rows),), "@shape"
    return found


assert np.allclose(asked((5, 99, at[6])), 0.1), "@no_prior"  # never shown: 20 * 0.1 / 20
assert np.allclose(asked((5, 40, at[0])), 0.1), "@future"  # shown, but only later
assert np.allclose(asked((5, 40, at[1])), 0.1), "@same_time"  # the very impression that we predict
assert np.allclose(asked((5, 42, at[6])), 0.1), "@other_query"  # clicked for query 6, not for 5
first, fifth = asked((5, 40, at[2]), (5, 41, at[6]))
assert fifth > first, "@position_bias"
assert np.isclose(first, (2 + 1) / (20 + 1.0)) and np.isclose(fifth, (2 + 1) / (20 + 0.3)), "@off_by_one"
assert np.allclose(asked((5, 41, at[6]), (5, 99, at[1]), (5, 40, at[2])), [fifth, 0.1, first]), "@order"
# %% exercise="ctr_feature" role="hidden" points=2
import os
from datetime import datetime, timedelta

import numpy as np
import polars as pl

rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
start = datetime(2025, 3, 1)
look = (rng.uniform(0.9, 1.0) / np.arange(1, 11) ** rng.uniform(0.6, 1.0)).tolist()
kinds = {
    "query_id": pl.Int32,
    "product_id": pl.Int32,
    "time": pl.Datetime,
    "position": pl.Int16,
    "clicked": pl.Boolean,
}
keys = {name: kinds[name] for name in ("query_id", "product_id", "time")}


def random_log(rows, queries=4, products=6, hours=60):
    when = [start + timedelta(hours=int(h)) for h in rng.integers(0, hours, size=rows)]
    data = zip(
        rng.integers(0, queries, size=rows).tolist(),
        rng.integers(0, products, size=rows).tolist(),
        when,
        rng.integers(1, 11, size=rows).tolist(),
        (rng.random(rows) < 0.3).tolist(),
    )
    return pl.DataFrame(list(data), schema=kinds, orient="row")


def frame(rows):
    return pl.DataFrame(rows, schema=keys, orient="row")


def features(log, requests, prior=0.1, strength=20.0):
    found = np.asarray(click_feature(log, requests, look, prior=prior, strength=strength), dtype=float)
    assert found.shape == (len(requests),), "@shape"
    return found


def reference(log, requests, prior, strength):
    out = []
    for query, product, time in requests.iter_rows():
        past = [r for r in log.iter_rows() if r[0] == query and r[1] == product and r[2] < time]
        clicks, seen = sum(r[4] for r in past), sum(look[r[3] - 1] for r in past)
        out.append((strength * prior + clicks) / (strength + seen))
    return out


log = random_log(700)
late, early = start + timedelta(days=9), start - timedelta(days=1)
assert np.allclose(features(log, frame([(1, 77, late)]), prior=0.25), 0.25), "@no_prior"
assert np.allclose(features(log, frame([(q, p, early) for q in range(4) for p in range(6)])), 0.1), "@future"
now = [(2, 3, start), (2, 4, start)]
instant = pl.DataFrame([(*row, 1, True) for row in now], schema=kinds, orient="row")
assert np.allclose(features(instant, frame(now)), 0.1), "@same_time"
away = log.filter(pl.col("query_id") != 1)
assert np.allclose(features(away, frame([(1, p, late) for p in range(6)])), 0.1), "@other_query"
pair = pl.DataFrame([(0, p, start, 3 + 5 * p, True) for p in (0, 1)] * 6, schema=kinds, orient="row")
third, eighth = features(pair, frame([(0, 0, late), (0, 1, late)]))
assert eighth > third, "@position_bias"
assert np.isclose(third, (2 + 6) / (20 + 6 * look[2])), "@off_by_one"
requests = random_log(150).select("query_id", "product_id", "time")
for prior, strength in [(0.1, 20.0), (0.02, 5.0)]:
    assert np.allclose(features(log, requests, prior, strength), reference(log, requests, prior, strength)), (
        "@order"
    )


# %% [markdown] exercise="ctr_feature" hint="1" lang="en"
# For each request pick the rows of the log with its query and its product and an earlier time; everything else is two sums over those rows.
# %% [markdown] exercise="ctr_feature" hint="1" lang="zh" of="ee20a073"
# 对每个请求，从日志里挑出查询相同、商品相同、时间更早的行；剩下的不过是在这些行上求两个和。
# %% [markdown] exercise="ctr_feature" hint="2" lang="en"
# `requests.with_row_index("row").join(log, on=["query_id", "product_id"], suffix="_log")` pairs every request with its history, and `.filter(pl.col("time_log") < pl.col("time"))` leaves only the past. Group by `row`; requests without history keep two zeros.
# %% [markdown] exercise="ctr_feature" hint="2" lang="zh" of="fef4b7c8"
# `requests.with_row_index("row").join(log, on=["query_id", "product_id"], suffix="_log")` 把每个请求和它的历史配到一起，再用 `.filter(pl.col("time_log") < pl.col("time"))` 只留过去的行，然后按 `row` 分组求和；没有历史的请求，两个和都是 0。
# %% [markdown] exercise="ctr_feature" hint="3" lang="en"
# A plain loop is fine too: for each request, `past = log.filter((pl.col("query_id") == q) & (pl.col("product_id") == p) & (pl.col("time") < t))`, then `(strength * prior + past["clicked"].sum()) / (strength + sum(examine[i - 1] for i in past["position"]))`.
# %% [markdown] exercise="ctr_feature" hint="3" lang="zh" of="4512fe12"
# 老老实实写循环也可以：对每个请求，`past = log.filter((pl.col("query_id") == q) & (pl.col("product_id") == p) & (pl.col("time") < t))`，再算 `(strength * prior + past["clicked"].sum()) / (strength + sum(examine[i - 1] for i in past["position"]))`。
# %% [markdown] exercise="ctr_feature" hint="shape" lang="en"
# The result is one array of shape (len(requests),): one number per row of `requests`, also for those that have no history. An inner join drops them.
# %% [markdown] exercise="ctr_feature" hint="shape" lang="zh" of="671b904c"
# 应当返回一个形状为 (len(requests),) 的数组：`requests` 的每一行对应一个数，没有历史的行也不例外。内连接（inner join）会把这些行丢掉。
# %% [markdown] exercise="ctr_feature" hint="no_prior" lang="en"
# A product that was never shown for this query gets exactly `prior`: no clicks and no looks leave $\alpha\pi/\alpha$.
# %% [markdown] exercise="ctr_feature" hint="no_prior" lang="zh" of="cad60717"
# 在该查询下从未曝光的商品，特征值应当恰好等于 `prior`：点击数和曝光都为 0，剩下 $\alpha\pi/\alpha$。
# %% [markdown] exercise="ctr_feature" hint="future" lang="en"
# A row that was logged after the request changed your feature. At serving time that row does not exist yet: offline you would measure a model that cannot be built.
# %% [markdown] exercise="ctr_feature" hint="future" lang="zh" of="23ada19c"
# 请求之后才产生的日志影响了特征值。线上打分时这条日志还不存在：离线指标再高，这个模型也上不了线。这就是特征穿越。
# %% [markdown] exercise="ctr_feature" hint="same_time" lang="en"
# A row with the *same* time is the impression whose click we want to predict. Earlier means strictly earlier.
# %% [markdown] exercise="ctr_feature" hint="same_time" lang="zh" of="5ad96c35"
# 时间**相同**的那一行，正是要预测的那次曝光，算进去就等于把答案喂给模型。“更早”指严格早于。
# %% [markdown] exercise="ctr_feature" hint="other_query" lang="en"
# Clicks of the same product for another query were counted. The feature is about the pair (query, product): a charger popular for *phone charger* says nothing about *laptop*.
# %% [markdown] exercise="ctr_feature" hint="other_query" lang="zh" of="a6b044c3"
# 同一商品在别的查询下的点击也被算进来了。这个特征针对的是“查询—商品”对：某款充电器在 *phone charger* 下很热门，不代表搜 *laptop* 时也该靠前。
# %% [markdown] exercise="ctr_feature" hint="position_bias" lang="en"
# One click in fifth place says more than one click in first place, since few shoppers look there. Add up $e_p$ over the impressions instead of counting them.
# %% [markdown] exercise="ctr_feature" hint="position_bias" lang="zh" of="d96b507b"
# 第五位上的一次点击，比第一位上的一次点击更说明问题，因为很少有人看到那里。分母应当累加 $e_p$，而不是直接数曝光次数。
# %% [markdown] exercise="ctr_feature" hint="off_by_one" lang="en"
# Positions start at 1 and Python lists at 0: the probability for position $p$ is `examine[p - 1]`. Check also that clicks are counted once each and divided by no probability of their own.
# %% [markdown] exercise="ctr_feature" hint="off_by_one" lang="zh" of="1695ff1c"
# 位置从 1 数起，Python 列表从 0 数起：第 $p$ 位的概率是 `examine[p - 1]`。再检查一下：每次点击是否只计 1，没有再除以各自的概率。
# %% [markdown] exercise="ctr_feature" hint="order" lang="en"
# Single requests are right, several at once are not. The result has one number per row of `requests`, in the order of `requests`; a join or a group-by may reorder rows or drop those without history.
# %% [markdown] exercise="ctr_feature" hint="order" lang="zh" of="eb7c59a4"
# 单个请求算得对，多个一起算就不对。结果应当与 `requests` 逐行对应、顺序一致；join 和 group_by 可能打乱顺序，也可能丢掉没有历史的行。
# %% [markdown] lang="en"
# ## 5. Which queries does each search win?
#
# Two averages that differ by 0.02 hide that keyword search wins every model number and semantic search every vague wish. Judge each
# query by $\mathrm{nDCG@}k$, with $g_r$ the grade (0 to 3) of the product at rank $r$, 0 when it has none:
#
# $$\mathrm{nDCG@}k=\frac{\sum_{r=1}^{k} g_r/\log_2(r+1)}{\text{the same sum for the best possible list}}$$
#
# The best possible list holds **all** graded products of the query, highest grade first, found or not. A query that a run does not
# answer scores 0. The gap is semantic minus keyword; a gap within `margin` is a tie. **Write the function:** for each kind of query,
# the sorted ids that each side wins, the ties, and the mean gap over all the kind's queries.
# %% [markdown] lang="zh" of="51fe62c1"
# ## 5. 关键词和语义，各自赢在哪些查询上？
#
# 两个平均分只差 0.02，背后可能是：型号类查询全归关键词，“随便说说”的模糊需求全归语义。请逐条查询用 $\mathrm{nDCG@}k$ 评判，
# 其中 $g_r$ 是第 $r$ 名商品的相关性等级（0 到 3，没有标注记 0）：
#
# $$\mathrm{nDCG@}k=\frac{\sum_{r=1}^{k} g_r/\log_2(r+1)}{\text{理想列表的同一个和}}$$
#
# 理想列表由该查询**全部**有等级的商品按等级从高到低排成，不管有没有被召回。某一路没有返回结果的查询记 0 分。
# 差距 = 语义 − 关键词；差距的绝对值不超过 `margin` 算平手。**请写出函数：** 对每一类查询，给出两边各自赢下的查询编号（升序）、
# 平手的编号，以及这一类全部查询的平均差距。
# %% exercise="error_analysis" role="solution"
def compare_by_kind(keyword, semantic, grades, kinds, k=10, margin=0.05):
    """Who wins which queries, by kind of query.

    keyword, semantic: {query id: list of product ids, best first}. grades: {query id: {product id: 1, 2 or 3}}.
    kinds: {query id: kind}; every query has one.
    Returns {kind: {"keyword": [query ids], "semantic": [query ids], "tie": [query ids], "gap": float}}.
    """

    ### BEGIN SOLUTION
    def dcg(gains):
        return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))

    def ndcg(ranking, judged):
        ideal = dcg(sorted(judged.values(), reverse=True))
        return dcg([judged.get(product, 0) for product in ranking]) / ideal if ideal else 0.0

    report = {}
    for query in sorted(kinds):
        judged = grades.get(query, {})
        gap = ndcg(semantic.get(query, []), judged) - ndcg(keyword.get(query, []), judged)
        entry = report.setdefault(kinds[query], {"keyword": [], "semantic": [], "tie": [], "gap": []})
        entry["tie" if abs(gap) <= margin else "semantic" if gap > 0 else "keyword"].append(query)
        entry["gap"].append(gap)
    for entry in report.values():
        entry["gap"] = float(np.mean(entry["gap"]))
    return report
    ### END SOLUTION


# %% exercise="error_analysis" role="test" points=1
import numpy as np

judged = {1: {10: 3, 11: 1}, 2: {20: 1, 21: 1, 22: 1, 23: 1}, 3: {30: 2}, 4: {40: 1}}


def winner(keyword, semantic, query, **options):
    report = compare_by_kind({query: keyword}, {query: semantic}, judged, {query: "any"}, **options)
    return {name for name in ("keyword", "semantic", "tie") if query in report["any"][name]}


# Keyword search finds only the so-so product of query 1; the perfect one counts although it was not found.
assert winner([11], [10, 11], 1) == {"semantic"}, "@ideal"
# One hit at rank 1 (1.0) against hits at ranks 2 and 3 (0.63 + 0.5).
assert winner([20], [99, 20, 21], 2, margin=0.01) == {"semantic"}, "@discount"
unanswered = compare_by_kind({}, {3: [30]}, judged, {3: "vague"})
assert list(unanswered["vague"]["semantic"]) == [3], "@missing"
assert winner([20, 21, 22, 99, 23], [20, 21, 22, 23], 2) == {"tie"}, "@margin"
assert winner([98, 99, 40], [98, 99, 97], 4, k=2) == {"tie"}, "@cutoff"
both = compare_by_kind({3: [30], 4: [40]}, {3: [99, 30], 4: [40]}, judged, {3: "brand", 4: "brand"})
gap = both["brand"]["gap"]
assert np.shape(gap) == () and np.isclose(gap, (1 / np.log2(3) - 1) / 2), "@gap"
# %% exercise="error_analysis" role="hidden" points=2
import math
import os

import numpy as np

rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
names = ["brand", "vague", "synonym"]


def ndcg(ranking, judged, k):
    best = sorted(judged.values(), reverse=True)[:k]
    ideal = sum(g / math.log2(r + 2) for r, g in enumerate(best))
    return (
        sum(judged.get(p, 0) / math.log2(r + 2) for r, p in enumerate(ranking[:k])) / ideal if ideal else 0.0
    )


def reference(keyword, semantic, grades, kinds, k, margin):
    report = {kind: {"keyword": [], "semantic": [], "tie": [], "gap": []} for kind in kinds.values()}
    for q in sorted(kinds):
        gap = ndcg(semantic.get(q, []), grades[q], k) - ndcg(keyword.get(q, []), grades[q], k)
        side = "tie" if abs(gap) <= margin else "semantic" if gap > 0 else "keyword"
        report[kinds[q]][side].append(q)
        report[kinds[q]]["gap"].append(gap)
    return report


def wins(report):
    return {kind: {side: list(map(int, entry[side])) for side in sides} for kind, entry in report.items()}


sides = ("keyword", "semantic", "tie")
base = int(rng.integers(100, 900))
only = {base: "brand"}
few = {base: {1: 3, 2: 1, 3: 1}}
assert wins(compare_by_kind({base: [2]}, {base: [1, 2]}, few, only))["brand"]["semantic"] == [base], "@ideal"
flat = {base: dict.fromkeys(range(1, 5), 1)}
steps = compare_by_kind({base: [1]}, {base: [90, 1, 2]}, flat, only, margin=0.01)
assert wins(steps)["brand"]["semantic"] == [base], "@discount"
queries = [base + i for i in range(40)]
kinds = {q: names[i % 3] for i, q in enumerate(queries)}
grades = {
    q: {int(p): int(rng.integers(1, 4)) for p in rng.permutation(60)[: rng.integers(2, 12)]} for q in queries
}


def run(skip):
    answered = [q for q in queries if q not in skip]
    return {q: list(dict.fromkeys([*rng.permutation(60)[:14].tolist(), *range(60)]))[:25] for q in answered}


lost = queries[3:6]
keyword, semantic = run(lost), run(())
want = reference(keyword, semantic, grades, kinds, 10, 0.05)
answered = compare_by_kind(keyword, semantic, grades, kinds)
listed = {q for entry in wins(answered).values() for side in sides for q in entry[side]}
assert set(lost) <= listed, "@missing"
near = {base: dict.fromkeys(range(1, 11), 1)}
swap = compare_by_kind({base: [*range(1, 10), 99]}, {base: list(range(1, 11))}, near, only, margin=0.1)
assert wins(swap)["brand"]["tie"] == [base], "@margin"
deep = compare_by_kind({base: [91, 92, 1]}, {base: [91, 92, 93]}, few, only, k=2)
assert wins(deep)["brand"]["tie"] == [base], "@cutoff"
for kind in want:
    gap = answered[kind]["gap"]
    assert np.shape(gap) == () and np.isclose(gap, np.mean(want[kind]["gap"])), "@gap"
for k, margin in [(10, 0.05), (3, 0.2)]:
    report = wins(compare_by_kind(keyword, semantic, grades, kinds, k=k, margin=margin))
    assert report == wins(reference(keyword, semantic, grades, kinds, k, margin)), "@cutoff"
# %% [markdown] exercise="error_analysis" hint="1" lang="en"
# Write a small `dcg(gains)` first. nDCG is that function called twice: on the grades in the order of the ranking, and on all grades sorted downwards.
# %% [markdown] exercise="error_analysis" hint="1" lang="zh" of="6e0b9e2e"
# 先写一个小函数 `dcg(gains)`。nDCG 就是调用它两次：一次传入按排序结果排列的等级，一次传入从高到低排好的全部等级。
# %% [markdown] exercise="error_analysis" hint="2" lang="en"
# Go through `sorted(kinds)`, so that the lists come out sorted and no query is forgotten; `run.get(query, [])` answers for a run that has nothing.
# %% [markdown] exercise="error_analysis" hint="2" lang="zh" of="f083fc12"
# 按 `sorted(kinds)` 遍历查询：这样结果天然升序，也不会漏掉任何一条；某一路没有结果时，`run.get(query, [])` 给出空列表。
# %% [markdown] exercise="error_analysis" hint="3" lang="en"
# `gap = ndcg(semantic…) - ndcg(keyword…)`; the side is `"tie" if abs(gap) <= margin else "semantic" if gap > 0 else "keyword"`. Keep every gap of the kind in a list and take its mean at the end.
# %% [markdown] exercise="error_analysis" hint="3" lang="zh" of="8615b1d3"
# `gap = ndcg(semantic…) - ndcg(keyword…)`；归属写作 `"tie" if abs(gap) <= margin else "semantic" if gap > 0 else "keyword"`。把同一类的所有差距存进列表，最后取平均。
# %% [markdown] exercise="error_analysis" hint="ideal" lang="en"
# A list that finds only the so-so product must not score 1. The ideal list is made of all graded products of the query, found or not.
# %% [markdown] exercise="error_analysis" hint="ideal" lang="zh" of="2d434e53"
# 只召回了一件“凑合”的商品，不该得 1 分。理想列表要用该查询全部有等级的商品来排，不管召回了没有。
# %% [markdown] exercise="error_analysis" hint="discount" lang="en"
# Two hits at ranks 2 and 3 outweigh one hit at rank 1: $1/\log_2 3+1/\log_2 4>1/\log_2 2$. Check the discount: rank $r$, counted from 1, is divided by $\log_2(r+1)$.
# %% [markdown] exercise="error_analysis" hint="discount" lang="zh" of="0f4d505f"
# 第 2、3 名两次命中，合起来胜过第 1 名一次命中：$1/\log_2 3+1/\log_2 4>1/\log_2 2$。请检查折损：名次 $r$ 从 1 数起，除以 $\log_2(r+1)$。
# %% [markdown] exercise="error_analysis" hint="missing" lang="en"
# A query that one run leaves unanswered is the worst failure there is. It scores 0 for that run; it must not drop out of the comparison.
# %% [markdown] exercise="error_analysis" hint="missing" lang="zh" of="d75ad81d"
# 一条结果都没有，是最糟糕的失败。该路应当记 0 分参与比较，不能把这条查询悄悄丢掉。
# %% [markdown] exercise="error_analysis" hint="margin" lang="en"
# A gap of at most `margin`, in either direction, is a tie: nobody notices it, and counting it as a win counts noise.
# %% [markdown] exercise="error_analysis" hint="margin" lang="zh" of="937c677a"
# 差距在 `margin` 以内（无论正负）都算平手：用户感觉不到，算作胜负只是在数噪声。
# %% [markdown] exercise="error_analysis" hint="cutoff" lang="en"
# What stands below rank $k$ does not count, neither in the ranking nor in the ideal list; both sums stop at `k`. All else follows the definition: sorted ids, each query on one side.
# %% [markdown] exercise="error_analysis" hint="cutoff" lang="zh" of="546df9de"
# 第 $k$ 名之后的商品一律不计，排序结果和理想列表都只累加到 `k`。其余按定义来：编号升序，每条查询只归一边。
# %% [markdown] exercise="error_analysis" hint="gap" lang="en"
# `gap` is the mean of semantic minus keyword over *all* queries of the kind. Ties belong in, with their small gaps, and a negative mean says that keyword search is ahead.
# %% [markdown] exercise="error_analysis" hint="gap" lang="zh" of="a748ab38"
# `gap` 是这一类**全部**查询上“语义 − 关键词”的平均值。平手的查询也要带着各自的小差距算进去；平均值为负，说明关键词领先。
# %% [markdown] lang="en"
# ## 6. Teach the encoder the shop's own words
#
# Persimmon's marketing invents words: a *midorte* jacket is one that keeps the rain out, and sellers still write *IPX7*. MiniLM has read
# a billion sentence pairs and none of these. Shoppers' clicks tell what is meant: (query, clicked title) pairs. In a batch of $B$ pairs each
# query must pick its own title among all $B$; with vectors $q_i, d_j$ of length 1 and $D$ numbers each,
#
# $$L=-\frac1B\sum_{i=1}^{B}\log\frac{\exp(q_i\cdot d_i/\tau)}{\sum_{j\in N_i}\exp(q_i\cdot d_j/\tau)}$$
#
# $\tau$ is the temperature, a number. $N_i$ holds $i$ itself and every $j$ that is not right for query $i$; `same[i, j]` is True where title $j$ is known
# to be right for query $i$, so `same[i, i]` is True. First look at the data that the next cell makes.
# %% [markdown] lang="zh" of="c1cf6d2e"
# ## 6. 教编码器听懂柿集的行话
#
# 柿集的市场部爱造词：*midorte* 夹克就是不怕雨的夹克，卖家的标题里写的却还是 *IPX7*。MiniLM 读过十亿个句对，没见过一个这样的词。
# 好在用户的点击说明了意思，这就有了（查询，被点击的标题）训练对。一个批次有 $B$ 对，每个查询要从 $B$ 个标题里认出自己的那一个；
# $q_i, d_j$ 是长度为 1 的 $D$ 维向量，
#
# $$L=-\frac1B\sum_{i=1}^{B}\log\frac{\exp(q_i\cdot d_i/\tau)}{\sum_{j\in N_i}\exp(q_i\cdot d_j/\tau)}$$
#
# $\tau$ 是温度系数（标量）。$N_i$ 包含 $i$ 自己，以及所有对查询 $i$ 不相关的 $j$；`same[i, j]` 为 True 表示已知标题 $j$ 与查询 $i$ 相关，
# 因此 `same[i, i]` 也是 True。先看看下一个单元格造出的数据长什么样。
# %%
WORDINGS = {  # what a made-up word stands for, in the words of three sellers
    "midorte": ["waterproof", "IPX7 sealed", "storm-proof"],
    "budorla": ["silent", "noise-free", "whisper-quiet"],
    "sokiven": ["foldable", "space-saving", "slim"],
    "rabuki": ["thermal", "fleece-lined", "insulated"],
}
THINGS = ["jacket", "backpack", "desk lamp", "fan", "speaker", "blanket", "kettle", "watch", "heater", "tent"]
RIGHT = {}  # query -> its right titles
for word, sold in WORDINGS.items():
    for thing in THINGS:
        RIGHT[f"{word} {thing}"] = [f"Norrvik {wording} {thing}, grey" for wording in sold]
HELD_OUT = sorted(RIGHT)[::4]  # queries that training never sees, though it sees their words elsewhere
PAIRS = [(query, title) for query, titles in RIGHT.items() if query not in HELD_OUT for title in titles]
TITLES = [title for titles in RIGHT.values() for title in titles]
print(
    len(PAIRS),
    "training pairs such as",
    PAIRS[0],
    "and",
    len(HELD_OUT),
    "held-out queries such as",
    HELD_OUT[0],
)


def trial(vectors):
    """nDCG@10 of the held-out queries, from (their vectors, the titles' vectors)."""
    ranked = np.argsort(-(vectors[0] @ vectors[1].T), axis=1)[:, :10]
    gains = [[TITLES[j] in RIGHT[query] for j in row] for query, row in zip(HELD_OUT, ranked, strict=True)]
    discount = 1 / np.log2(np.arange(2, 12))
    return float(np.mean(gains @ discount) / discount[:3].sum())


# %% [markdown] lang="en"
# **Write both functions.** The encoder is `BiEncoder.from_pretrained("minilm")`; `encoder.embed(encoder.tokenize(texts))` returns a (B, D) tensor with
# gradients, `encoder.encode(texts)` an array without. `encoder.train()` switches dropout on. About 30 steps of AdamW in batches of 16 to 32,
# with a learning rate near $10^{-4}$, are enough; the grader stops you after a minute. `device.autocast()` halves the time on processors with bf16.
# To see the effect, run `trial(fine_tune(PAIRS, HELD_OUT, TITLES))` in a cell of your own: MiniLM untouched reaches about 0.5, and the
# grader, who invents other words, asks for 0.75.
# %% [markdown] lang="zh" of="7c25c228"
# **请写出两个函数。** 编码器用 `BiEncoder.from_pretrained("minilm")` 加载；`encoder.embed(encoder.tokenize(texts))` 返回带梯度的 (B, D) 张量，
# `encoder.encode(texts)` 返回不带梯度的数组；`encoder.train()` 打开 dropout。用 AdamW 训练 30 步左右、批大小 16 到 32、学习率 $10^{-4}$ 上下就够了；
# 评分时超过一分钟会被中断。处理器支持 bf16 时，`device.autocast()` 能省一半时间。
# 想看效果，就自己加一个单元格运行 `trial(fine_tune(PAIRS, HELD_OUT, TITLES))`：未经微调的 MiniLM 大约 0.5；评分时会换一批新造的词，要求达到 0.75。
# %% exercise="fine_tune" role="solution"
def in_batch_loss(queries, titles, same, temperature=0.05):
    """Contrastive loss with in-batch negatives.

    queries, titles: (B, D) tensors of unit vectors. same: (B, B) bool tensor, as above. Returns a scalar tensor.
    """
    ### BEGIN SOLUTION
    logits = queries @ titles.T / temperature  # (B, B)
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(others, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(same), device=logits.device))
    ### END SOLUTION


def fine_tune(pairs, queries, titles):
    """Fine-tune MiniLM on pairs of (query, title), then encode with the result.

    pairs: list of (query, title). queries, titles: lists of texts to encode. Returns two arrays, (Q, D) and (N, D).
    """
    torch.manual_seed(0)
    device = choose_device()
    encoder = BiEncoder.from_pretrained("minilm", device=str(device.device))
    ### BEGIN SOLUTION
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4)
    right, size = set(map(tuple, pairs)), min(24, len(pairs))
    encoder.train()
    for _ in range(4):
        order = torch.randperm(len(pairs)).tolist()
        for start in range(0, len(order) - size + 1, size):
            asked, shown = zip(*(pairs[i] for i in order[start : start + size]), strict=True)
            with device.autocast():
                q, d = encoder.embed(encoder.tokenize(asked)), encoder.embed(encoder.tokenize(shown))
            same = torch.tensor([[(a, s) in right for s in shown] for a in asked], device=q.device)
            loss = in_batch_loss(q.float(), d.float(), same)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return encoder.encode(queries), encoder.encode(titles)
    ### END SOLUTION


# %% exercise="fine_tune" role="test" points=2
import math

import numpy as np
import torch

from labkit.models import BiEncoder

corner, alone = torch.eye(3), torch.eye(3, dtype=torch.bool)


def loss(q, d, same, temperature):
    return float(in_batch_loss(q, d, same, temperature=temperature))


assert math.isfinite(loss(corner, corner, alone, 1.0)), "@own_positive"
assert loss(corner, corner, alone, 1.0) < loss(corner, corner.roll(1, 0), alone, 1.0), "@own_title"
assert loss(corner, corner, alone, 0.1) < 0.5 * loss(corner, corner, alone, 1.0), "@temperature"
# Titles 0 and 1 are both right for queries 0 and 1: neither may push the other away.
twins = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
both = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
assert loss(twins, twins, both, 0.1) < 0.01, "@mask"
# At temperature 1 a query sees its own title (score 1) and two others (score 0).
assert np.isclose(loss(corner, corner, alone, 1.0), -math.log(math.e / (math.e + 2)), rtol=1e-4), "@value"

pairs = [
    (f"{word} {thing}", f"{w} {thing}")
    for word, w in [("midorte", "waterproof"), ("budorla", "silent")]
    for thing in ["jacket", "fan", "lamp", "watch", "tent", "boots", "kettle", "speaker"] * 2
]
texts = ["silent fan", "waterproof tent", "midorte lamp"]
tuned, same_texts = (np.asarray(part, dtype=float) for part in fine_tune(pairs, texts, texts))
plain = BiEncoder.from_pretrained("minilm").encode(texts)
assert tuned.shape == same_texts.shape == plain.shape, "@shape"
assert np.abs(tuned - plain).max() > 1e-3, "@untouched"
assert np.abs(tuned - same_texts).max() < 0.02, "@one_encoder"
# %% exercise="fine_tune" role="hidden" points=4
import math
import os

import numpy as np
import torch

from labkit.models import BiEncoder

seed = int(os.environ.get("LABKIT_TEST_SEED", "0"))
rng = np.random.default_rng(seed)
size = int(rng.integers(5, 9))
q, d = (torch.tensor(rng.normal(size=(size, 16)), dtype=torch.float32) for _ in "qd")
q, d = q / q.norm(dim=1, keepdim=True), d / d.norm(dim=1, keepdim=True)
own = torch.eye(size, dtype=torch.bool)
same = own.clone()
same[0, 1] = same[1, 0] = same[2, 0] = True


def loss(q, d, same, temperature):
    return float(in_batch_loss(q, d, same, temperature=temperature))


def reference(q, d, same, temperature):
    total = 0.0
    for i in range(len(q)):
        kept = [j for j in range(len(q)) if j == i or not same[i, j]]
        scores = {j: math.exp(float(q[i] @ d[j]) / temperature) for j in kept}
        total -= math.log(scores[i] / sum(scores.values()))
    return total / len(q)


assert math.isfinite(loss(q, d, own, 0.5)), "@own_positive"
shuffled = torch.tensor(rng.permutation(size))
assert loss(d, d, own, 0.5) < loss(d, d.roll(1, 0), own, 0.5), "@own_title"
assert np.isclose(loss(q, d, own, 0.5), loss(q[shuffled], d[shuffled], own, 0.5), rtol=1e-3), "@own_title"
assert loss(d, d, own, 0.05) < 0.5 * loss(d, d, own, 1.0), "@temperature"
copies = d.clone()
copies[1] = copies[0]
assert loss(copies, copies, same, 0.3) < loss(copies, copies, own, 0.3) - 0.05, "@mask"
for temperature in (0.05, 0.2):
    assert np.isclose(loss(q, d, same, temperature), reference(q, d, same, temperature), rtol=1e-3), "@value"

# fmt: off
sold = [["waterproof", "IPX7 sealed", "storm-proof"], ["silent", "noise-free", "whisper-quiet"],
        ["foldable", "space-saving", "slim"], ["thermal", "fleece-lined", "insulated"],
        ["child-safe", "non-toxic", "rounded-edge"], ["cordless", "rechargeable", "battery-powered"]]
things = ["jacket", "backpack", "desk lamp", "fan", "speaker", "blanket",
          "kettle", "watch", "stroller", "heater", "camera", "toaster"]
syllables = ["nu", "vo", "la", "ki", "ra", "so", "te", "mi", "bu", "zan", "fel", "dor"]
# fmt: on
words = set()
while len(words) < len(sold):
    words.add("".join(rng.choice(syllables, 3, replace=False)))
wants = [(word, wordings, thing) for word, wordings in zip(sorted(words), sold) for thing in things]
held = {wants[i][0::2] for i in rng.permutation(len(wants))[:24]}
brands = ["Norrvik", "Hexa", "Bassline", "Wrenfield", "Modulo", "Homeroost"]
pairs = [
    (f"{w} {t}", f"{rng.choice(brands)} {s} {t}") for w, ss, t in wants if (w, t) not in held for s in ss
]
titles = [(w, t, f"{rng.choice(brands)} {s} {t}") for w, ss, t in wants for s in ss]
queries = sorted(held)
texts = [title for *_, title in titles]
tuned, shelf = fine_tune(pairs, [*(f"{w} {t}" for w, t in queries), texts[0]], texts)
tuned, shelf = np.asarray(tuned, dtype=float), np.asarray(shelf, dtype=float)
plain = BiEncoder.from_pretrained("minilm").encode(texts[:1])
assert tuned.shape == (len(queries) + 1, plain.size) and shelf.shape == (len(texts), plain.size), "@shape"
assert np.abs(tuned[-1] - plain[0]).max() > 1e-3, "@untouched"
assert np.abs(tuned[-1] - shelf[0]).max() < 0.02, "@one_encoder"
ranked = np.argsort(-(tuned[:-1] @ shelf.T), axis=1)[:, :10]
gains = np.array([[titles[j][:2] == query for j in row] for query, row in zip(queries, ranked)])
discount = 1 / np.log2(np.arange(2, 12))
assert (gains @ discount).mean() / discount[:3].sum() >= 0.75, "@learned"
# %% [markdown] exercise="fine_tune" hint="1" lang="en"
# The loss is a cross-entropy in disguise: row $i$ of the (B, B) matrix of scores is a classification among B titles, and the right class of row $i$ is $i$.
# %% [markdown] exercise="fine_tune" hint="1" lang="zh" of="758d19ae"
# 这个损失其实就是交叉熵：(B, B) 得分矩阵的第 $i$ 行是一个 B 选 1 的分类，正确类别就是 $i$。
# %% [markdown] exercise="fine_tune" hint="2" lang="en"
# `logits = queries @ titles.T / temperature`; write $-\infty$ where `same` is True *off the diagonal*; then `torch.nn.functional.cross_entropy(logits, torch.arange(B))`. In the loop: embed both sides, loss, `zero_grad`, `backward`, `step`.
# %% [markdown] exercise="fine_tune" hint="2" lang="zh" of="810779a7"
# `logits = queries @ titles.T / temperature`；在 `same` 为 True 且**不在对角线上**的位置写入 $-\infty$；再调用 `torch.nn.functional.cross_entropy(logits, torch.arange(B))`。训练循环依次是：编码两边、算损失、`zero_grad`、`backward`、`step`。
# %% [markdown] exercise="fine_tune" hint="3" lang="en"
# For each batch: `asked, shown = zip(*batch)`; `q = encoder.embed(encoder.tokenize(asked))`, likewise `d`; `same = torch.tensor([[(a, s) in right for s in shown] for a in asked])` with `right = set(pairs)`. Four passes over shuffled batches of 24. At the end `return encoder.encode(queries), encoder.encode(titles)`.
# %% [markdown] exercise="fine_tune" hint="3" lang="zh" of="ba61524d"
# 对每个批次：`asked, shown = zip(*batch)`；`q = encoder.embed(encoder.tokenize(asked))`，`d` 同理；`same = torch.tensor([[(a, s) in right for s in shown] for a in asked])`，其中 `right = set(pairs)`。打乱后按 24 对一批，过四遍数据。最后 `return encoder.encode(queries), encoder.encode(titles)`。
# %% [markdown] exercise="fine_tune" hint="own_positive" lang="en"
# The loss is infinite or not a number: the query's own title was masked too. `same[i, i]` is True, but the diagonal must stay in.
# %% [markdown] exercise="fine_tune" hint="own_positive" lang="zh" of="0e1e68a0"
# 损失变成了无穷大或 NaN：查询自己的标题也被遮掉了。`same[i, i]` 虽然是 True，对角线却必须保留。
# %% [markdown] exercise="fine_tune" hint="own_title" lang="en"
# The right answer of row $i$ is column $i$, not column 0. A batch whose titles fit their queries must lose less than one whose titles are shifted by one place, and the order of the pairs must not matter.
# %% [markdown] exercise="fine_tune" hint="own_title" lang="zh" of="d6b97bac"
# 第 $i$ 行的正确答案是第 $i$ 列，不是第 0 列。标题与查询配对正确的批次，损失应当小于标题整体错开一位的批次；批内各对的先后也不该影响损失。
# %% [markdown] exercise="fine_tune" hint="temperature" lang="en"
# Divide the scores by the temperature before the softmax. Cosines lie between −1 and 1: without it the best title can hardly get more than a few times the weight of the worst, and training has nothing to pull at.
# %% [markdown] exercise="fine_tune" hint="temperature" lang="zh" of="91a21fa9"
# softmax 之前，得分要先除以温度系数。余弦相似度只在 −1 到 1 之间，不除的话，最好的标题和最差的权重差不了几倍，训练使不上劲。
# %% [markdown] exercise="fine_tune" hint="mask" lang="en"
# Another pair's title that is also right for this query was pushed away as if it were wrong. Where `same[i, j]` is True and $j \ne i$, title $j$ must not stand in the denominator.
# %% [markdown] exercise="fine_tune" hint="mask" lang="zh" of="9cbf7a80"
# 批内另一对的标题对这个查询也是对的，却被当成负样本推远了。`same[i, j]` 为 True 且 $j \ne i$ 时，标题 $j$ 不能出现在分母里。
# %% [markdown] exercise="fine_tune" hint="value" lang="en"
# The behaviour is right, the number is not. The loss is the *mean* over the B queries, with the natural logarithm, and each query looks over the titles (rows), not each title over the queries.
# %% [markdown] exercise="fine_tune" hint="value" lang="zh" of="79aa9975"
# 大方向对了，数值不对。损失是对 B 个查询取**平均**，用自然对数；而且是每个查询在各标题上做 softmax（按行），不是每个标题在各查询上做。
# %% [markdown] exercise="fine_tune" hint="shape" lang="en"
# `fine_tune` returns two arrays: one row per text of `queries`, one row per text of `titles`, and as many numbers in a row as MiniLM's vectors have (384).
# %% [markdown] exercise="fine_tune" hint="shape" lang="zh" of="093eec43"
# `fine_tune` 应当返回两个数组：`queries` 里每段文字一行，`titles` 里每段文字一行，每行的长度与 MiniLM 的向量相同（384）。
# %% [markdown] exercise="fine_tune" hint="untouched" lang="en"
# The vectors that came back are those of MiniLM before training. Does `optimizer.step()` run, for a batch that is really drawn? Do you return the encoder that was trained? Embeddings from `encode` have no gradients; train on `embed`.
# %% [markdown] exercise="fine_tune" hint="untouched" lang="zh" of="b698892a"
# 返回的向量和训练前的 MiniLM 一模一样。`optimizer.step()` 执行了吗？循环里真的取到批次了吗？返回用的是训练过的那个编码器吗？`encode` 的输出不带梯度，训练要用 `embed`。
# %% [markdown] exercise="fine_tune" hint="one_encoder" lang="en"
# The same text came back with two different vectors, one as a query and one as a title. Encode both sides after training, with the same weights, and with dropout off (`encode` sees to that).
# %% [markdown] exercise="fine_tune" hint="one_encoder" lang="zh" of="0bb5883a"
# 同一段文字，当查询和当标题得到了两个不同的向量。两边都要在训练**之后**、用同一套权重来编码，而且要关掉 dropout（`encode` 会自动处理）。
# %% [markdown] exercise="fine_tune" hint="learned" lang="en"
# The encoder changed, but it has not learned the new words well enough (nDCG@10 below 0.75 on queries it never saw). Run `trial(...)` and look at the loss: it should fall from about 1 to below 0.4. Too few steps, a learning rate far from $10^{-4}$, or tiny batches are the usual reasons.
# %% [markdown] exercise="fine_tune" hint="learned" lang="zh" of="4372b8b5"
# 编码器变了，但新词学得还不够好（在没见过的查询上 nDCG@10 低于 0.75）。运行 `trial(...)` 并观察损失：它应当从 1 左右降到 0.4 以下。常见原因是步数太少、学习率离 $10^{-4}$ 太远，或者批太小。
# %% [markdown] lang="en"
# ## 7. What would you ship?
#
# Persimmon's board meets on Friday. The shop has 2 million searches a day (200 a second at peak), €38 of revenue per order, one order per 40 searches, and
# one search engineer. A core costs €144 a month. The lesson measured on 100 judged queries (nDCG@10, 95 % interval; milliseconds on one machine):
#
# | system | nDCG@10 | interval | brand | vague | ms |
# |-|-|-|-|-|-|
# | BM25 | 0.642 | 0.574–0.708 | 0.84 | 0.21 | 0.1 |
# | BM25 + spelling | 0.654 | 0.587–0.719 | 0.84 | 0.22 | 0.2 |
# | bi-encoder, zero-shot | 0.639 | 0.581–0.695 | 0.75 | 0.36 | 4 |
# | bi-encoder, fine-tuned | 0.652 | 0.593–0.710 | 0.77 | 0.31 | 2 |
# | hybrid (spelling, BM25, fine-tuned) | 0.686 | 0.627–0.742 | 0.83 | 0.35 | 3 |
# | cross-encoder over the hybrid's first 20 | 0.594 | 0.534–0.654 | 0.78 | 0.28 | 80 |
# | LambdaMART with past clicks over the hybrid's first 50 | 0.767 | 0.714–0.817 | 0.89 | 0.41 | 8 |
#
# **Write at most 250 words to the board:** what you would ship first and what not; what it costs; what you would measure after the launch, for whom
# it could get worse, and what number would make you take it back.
# %% [markdown] lang="zh" of="2adea5c3"
# ## 7. 换作是你，上线什么？
#
# 柿集的管理层周五开会。目前每天 200 万次搜索（峰值每秒 200 次），平均每 40 次搜索成一单，客单价 38 欧元，搜索工程师只有一位。
# 一个核每月 144 欧元。课上在 100 条带标注的查询上测得（nDCG@10 及 95 % 置信区间；单机毫秒数）：
#
# | 系统 | nDCG@10 | 区间 | 品牌类 | 模糊类 | 毫秒 |
# |-|-|-|-|-|-|
# | BM25 | 0.642 | 0.574–0.708 | 0.84 | 0.21 | 0.1 |
# | BM25 + 纠错 | 0.654 | 0.587–0.719 | 0.84 | 0.22 | 0.2 |
# | 双塔，零样本 | 0.639 | 0.581–0.695 | 0.75 | 0.36 | 4 |
# | 双塔，微调 | 0.652 | 0.593–0.710 | 0.77 | 0.31 | 2 |
# | 混合检索（纠错、BM25、微调） | 0.686 | 0.627–0.742 | 0.83 | 0.35 | 3 |
# | 交叉编码器重排混合检索前 20 名 | 0.594 | 0.534–0.654 | 0.78 | 0.28 | 80 |
# | LambdaMART（含历史点击）排混合检索前 50 名 | 0.767 | 0.714–0.817 | 0.89 | 0.41 | 8 |
#
# **请给管理层写一段不超过 400 字的建议：** 先上线什么、不上线什么；要花多少钱；上线后看哪些指标，哪些用户可能反而变差，哪个数字一出现就回滚。
# %% [markdown] exercise="business" role="answer" points=5 lang="en"
# ### BEGIN MARK SCHEME
# One point each; half a point for a claim without its reason or number.
#
# 1. **Decision.** Names what is shipped first *and* what is not, and the order follows from quality and cost (for example: spelling now, the hybrid as a test, LambdaMART once
#    its click feature is proven free of the future; not the re-ranker, which is dearer and worse at this budget). Any consistent choice earns the point.
# 2. **Certainty.** Uses the intervals: says which gains 100 queries cannot tell from chance (spelling alone, zero-shot or fine-tuned
#    against BM25 with spelling, the hybrid's three points over it), and that a paired test or more judged queries would be needed. "Higher mean, so better" earns nothing.
# 3. **Cost in money.** Turns milliseconds into cores at peak and euros a month (200 × ms / 1000 cores, rounded up, with head-room), mentions the re-encoding of the
#    catalogue or the engineer's time, and sets it against revenue: one order in 40 searches at €38 is about €0.95 a search, so even +0.1 % is about €1,900 a day.
# 4. **Measurement.** An A/B test on an online measure (conversion or revenue per search, searches without a click, reformulations), with a guard-rail (p95 latency,
#    zero-result rate), decided before the start; not nDCG alone and not clicks alone (position bias).
# 5. **Harm and return.** Says who may lose (model-number and brand searches under pure semantic search, new products without clicks, small sellers) and gives a number with
#    a time that triggers the roll-back (for example: conversion on brand queries down by more than 1 % for two days).
# ### END MARK SCHEME
# %% [markdown] exercise="business" role="answer" points=5 lang="zh" of="cb3343e9"
# ### BEGIN MARK SCHEME
# 每点 1 分；只有结论、没有理由或数字的，得 0.5 分。
#
# 1. **决策。** 明确先上什么、**不上**什么，先后次序由效果和成本推出（例如：纠错先上，混合检索做测试，LambdaMART 等确认点击特征没有穿越再上；
#    重排模型更贵，在这点训练量下反而更差，不上）。只要自洽即可得分。
# 2. **把握。** 用到置信区间：指出哪些提升在 100 条查询上分不清是不是碰巧（单独的纠错，零样本或微调对 BM25 加纠错，混合检索比它高出的三个点），需要配对检验或更多标注查询。
#    只说“均值更高所以更好”不得分。
# 3. **折算成钱。** 把毫秒换算成峰值核数和每月费用（200 × 毫秒 / 1000，向上取整并留余量），提到商品库重新编码或工程师人力，并与收入对比：
#    40 次搜索成一单、客单价 38 欧元，每次搜索约值 0.95 欧元，哪怕只涨 0.1 %，一天也有约 1,900 欧元。
# 4. **度量。** 做 A/B 测试，看线上指标（搜索转化率或每次搜索的收入、无点击率、改写率），并设护栏指标（p95 延迟、零结果率），开始前就定好判断标准；
#    不能只看 nDCG，也不能只看点击（有位置偏差）。
# 5. **伤害与回滚。** 说清谁可能变差（纯语义检索下的型号、品牌查询；还没有点击的新品；小卖家），并给出触发回滚的数字和时限
#    （例如：品牌查询转化率连续两天下降超过 1 %）。
# ### END MARK SCHEME

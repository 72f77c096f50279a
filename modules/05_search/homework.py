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
# After each exercise run `check("name")`. Stuck? `hint("name")` gives one step at a time. The first exercises leave you a line or
# two; the last ones leave you a blank page.
# %% [markdown] lang="zh" of="00000000"
# # 作业 05：修好柿集的搜索框
#
# 柿集是一家综合电商。用户搜的是 *couch*，卖家写的是 *sofa*；搜索框只会比对字面，一件也找不出来，用户转身就去了别家。
# 前六题，你来动手做一个更好的搜索框的各个部件；第七题用文字回答：这些部件里，哪些值得花这笔钱。
# 各题互不依赖，卡住了可以先跳过。
#
# 每做完一题就运行 `check("题名")`；没有思路时运行 `hint("题名")`，提示一次只给一步。开头几题只空一两行，
# 越往后空得越多，最后几题要从空白写起。
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
# %% [markdown] lang="zh" of="00000000"
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

shelf = [["red", "sofa"], ["red", "sofa", "sofa"], ["red", "chandelier"], ["red", "oak", "chair", "set"]]
common = np.asarray(bm25_scores(["red"], shelf), dtype=float)
assert common.shape == (4,) and (common > 0).all(), "@negative_idf"
twin = [["red", "sofa"], ["red", "sofa", "oval"], ["red", "chandelier"], ["red", "oak", "chair", "set"]]
assert np.isclose(bm25_scores(["sofa"], shelf)[0], bm25_scores(["sofa"], twin)[0]), "@occurrences"
stuffed = [["sofa", "oak", "oak", "oak"], ["sofa", "sofa", "oak", "oak"], ["lamp", "oak", "oak", "oak"]]
once, twice, _ = bm25_scores(["sofa"], stuffed)
assert once < twice < 1.99 * once, "@saturation"
assert common[0] > common[3], "@length"
assert np.isclose(common[0], common[2]), "@length"
assert np.allclose(bm25_scores(["sofa", "sofa"], twin), 2 * np.asarray(bm25_scores(["sofa"], twin))), "@repeated_word"
# "chandelier" stands once, in one of four documents; that document has 2 words and the average has 2.75.
by_hand = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5)) * 1 / (1 + 1.2 * (1 - 0.75 + 0.75 * 2 / 2.75))
assert np.allclose(bm25_scores(["chandelier"], shelf), [0, 0, by_hand, 0]), "@formula"
# %% exercise="bm25" role="hidden" points=2
import math
import os

import numpy as np

rng = np.random.default_rng(int(os.environ.get("LABKIT_TEST_SEED", "0")))
words = [f"{stem}{number}" for number, stem in enumerate(["a", "lamp", "chair", "bookcase", "upholstered"] * 6)]
chance = 1 / np.arange(1, len(words) + 1)
chance /= chance.sum()


def draw(low, high):
    return [str(word) for word in rng.choice(words, size=int(rng.integers(low, high)), p=chance)]


def reference(query, documents, k1, b):
    average = sum(len(document) for document in documents) / len(documents)
    scores = []
    for document in documents:
        total = 0.0
        for word in query:
            n = sum(word in other for other in documents)
            f = document.count(word)
            if f:
                total += math.log(1 + (len(documents) - n + 0.5) / (n + 0.5)) * f / (
                    f + k1 * (1 - b + b * len(document) / average)
                )
        scores.append(total)
    return scores


# A word that stands in every document still adds a little.
everywhere = [["the", *draw(1, 9)] for _ in range(12)]
assert np.asarray(bm25_scores(["the"], everywhere)).min() > 0, "@negative_idf"
# Repeating a word in another document of the same length leaves this document alone.
plain = [["rug", "mat"], ["rug", "pad", "pad", "pad"]] + [["mat"] * int(rng.integers(1, 6)) for _ in range(5)]
loud = [plain[0], ["rug", "rug", "rug", "pad"], *plain[2:]]
assert np.isclose(bm25_scores(["rug"], plain)[0], bm25_scores(["rug"], loud)[0]), "@occurrences"
# Ten times the word is worth less than twice as much, at k1 = 1.2 and average length.
ladder = [["rug"] * n + ["mat"] * (20 - n) for n in (1, 10, 0, 0, 0)]
low, high = (float(value) for value in bm25_scores(["rug"], ladder)[:2])
assert low < high < 2.2 * low, "@saturation"
# Length is counted in words: more words, less score; longer words, the same score.
filler = int(rng.integers(3, 9))
shapes = [["rug", "x"], ["rug", *["x"] * filler], ["rug", "upholstered-armchair"]]
short, long, wordy = (float(value) for value in bm25_scores(["rug"], shapes))
assert short > long and np.isclose(short, wordy), "@length"
corpus = [draw(2, 14) for _ in range(40)]
word = corpus[0][0]
assert np.allclose(bm25_scores([word] * 3, corpus), 3 * np.asarray(bm25_scores([word], corpus))), "@repeated_word"
for k1, b in [(1.2, 0.75), (0.9, 0.4), (2.0, 1.0)]:
    query = [*draw(1, 4), "unheard"]
    assert np.allclose(bm25_scores(query, corpus, k1=k1, b=b), reference(query, corpus, k1, b), rtol=1e-9), "@formula"
# %% [markdown] exercise="bm25" hint="1" lang="en"
# For one word you need one number for the whole shop ($n_t$, hence the logarithm) and one per document ($f_{t,d}$). `counts[d][word]` is $f_{t,d}$, and 0 when the word is absent.
# %% [markdown] exercise="bm25" hint="1" lang="zh" of="00000000"
# 对每个词，要算一个全站共用的数（$n_t$，从而得到对数项），再为每篇文档算一个数（$f_{t,d}$）。`counts[d][word]` 就是 $f_{t,d}$，词没出现时为 0。
# %% [markdown] exercise="bm25" hint="2" lang="en"
# Collect $f_{t,d}$ of all documents in one array `frequency` of shape (N,). Then $n_t$ is how many of its entries are above 0, and the whole formula can be written once for all documents.
# %% [markdown] exercise="bm25" hint="2" lang="zh" of="00000000"
# 先把所有文档的 $f_{t,d}$ 收进一个形状为 (N,) 的数组 `frequency`。$n_t$ 就是其中大于 0 的个数，整条公式对全部文档一次就能算完。
# %% [markdown] exercise="bm25" hint="3" lang="en"
# `scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))`, with `idf = np.log(1 + (N - n + 0.5) / (n + 0.5))`.
# %% [markdown] exercise="bm25" hint="3" lang="zh" of="00000000"
# `scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))`，其中 `idf = np.log(1 + (N - n + 0.5) / (n + 0.5))`。
# %% [markdown] exercise="bm25" hint="negative_idf" lang="en"
# A word that stands in every document must still add a little, never subtract. The older idf, $\ln\frac{N-n+0.5}{n+0.5}$, turns negative for words in more than half of the documents; Lucene's has $1+$ inside the logarithm.
# %% [markdown] exercise="bm25" hint="negative_idf" lang="zh" of="00000000"
# 每篇文档都有的词，也应当加一点分，绝不能倒扣。早期的 idf 写作 $\ln\frac{N-n+0.5}{n+0.5}$，词出现在过半文档里就会变成负数；Lucene 的写法在对数里多了一个 $1+$。
# %% [markdown] exercise="bm25" hint="occurrences" lang="en"
# $n_t$ counts documents, not occurrences: a seller who repeats a word five times in one title makes it no more common in the shop.
# %% [markdown] exercise="bm25" hint="occurrences" lang="zh" of="00000000"
# $n_t$ 数的是文档，不是出现次数：某个卖家在一条标题里把词写了五遍，这个词在全站并没有因此变得更常见。
# %% [markdown] exercise="bm25" hint="saturation" lang="en"
# Twice the word must be worth less than twice the score. The frequency belongs in the numerator *and* in the denominator, where `k1` decides how fast it saturates.
# %% [markdown] exercise="bm25" hint="saturation" lang="zh" of="00000000"
# 词出现两次，得分应当不到一次的两倍。词频在分子和分母里都要有，`k1` 决定它多快饱和。
# %% [markdown] exercise="bm25" hint="length" lang="en"
# With the same matches, the document with fewer *words* must win, and longer words must change nothing. Is $|d|$ in your formula, divided by the average, and is it counted in words?
# %% [markdown] exercise="bm25" hint="length" lang="zh" of="00000000"
# 命中相同的情况下，**词数**少的文档应当得分更高，而词本身长短不该有影响。公式里用到 $|d|$ 了吗？除以平均长度了吗？是按词数而不是按字符数算的吗？
# %% [markdown] exercise="bm25" hint="repeated_word" lang="en"
# The sum runs over the words as typed. A word typed three times is added three times; a `set` forgets that.
# %% [markdown] exercise="bm25" hint="repeated_word" lang="zh" of="00000000"
# 求和是按用户输入的词逐个进行的：同一个词输入三遍就加三遍。用 `set` 去重就把这个信息丢了。
# %% [markdown] exercise="bm25" hint="formula" lang="en"
# The behaviour is right but the digits are not. Compare term by term: the natural logarithm, the two 0.5, and no factor $(k_1+1)$ in the numerator (Lucene dropped it, since a constant changes no order).
# %% [markdown] exercise="bm25" hint="formula" lang="zh" of="00000000"
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
# %% [markdown] lang="zh" of="00000000"
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
assert np.allclose([score for _, score in rrf([one], k=10)], [1 / (10 + r) for r in range(1, len(one) + 1)]), "@zero_based"
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
# %% [markdown] exercise="rrf" hint="1" lang="zh" of="00000000"
# 用 `enumerate` 走一遍列表，碰到哪个商品就给它加一份分。没碰到的商品不用管：`defaultdict` 默认从 0 开始。
# %% [markdown] exercise="rrf" hint="2" lang="en"
# `enumerate(ranking, start=1)` gives the rank that the formula means. After the loop, sort `scores.items()` by two keys: score descending, id ascending.
# %% [markdown] exercise="rrf" hint="2" lang="zh" of="00000000"
# `enumerate(ranking, start=1)` 给出的正是公式里的名次。循环结束后，对 `scores.items()` 按两个键排序：得分降序、编号升序。
# %% [markdown] exercise="rrf" hint="3" lang="en"
# `scores[product] += 1 / (k + rank)` in the loop; then `sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:depth]`.
# %% [markdown] exercise="rrf" hint="3" lang="zh" of="00000000"
# 循环里写 `scores[product] += 1 / (k + rank)`；最后返回 `sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:depth]`。
# %% [markdown] exercise="rrf" hint="zero_based" lang="en"
# The first product of a list has rank 1, so it earns $1/(k+1)$. `enumerate` counts from 0 unless told otherwise.
# %% [markdown] exercise="rrf" hint="zero_based" lang="zh" of="00000000"
# 列表里第一个商品的名次是 1，得 $1/(k+1)$ 分。`enumerate` 不加参数时从 0 数起。
# %% [markdown] exercise="rrf" hint="absent" lang="en"
# A product that one list does not contain gets nothing from that list: not a share for "last place + 1", and not a penalty. Its score is the sum over the lists that do contain it.
# %% [markdown] exercise="rrf" hint="absent" lang="zh" of="00000000"
# 某一路没有召回这个商品，这一路就一分不加：既不能当作“最后一名之后”给分，也不能扣分。它的得分只来自召回了它的那几路。
# %% [markdown] exercise="rrf" hint="sum" lang="en"
# Being found by two lists is the evidence that fusion is after, so shares are added. The best share, or the average, throws it away.
# %% [markdown] exercise="rrf" hint="sum" lang="zh" of="00000000"
# 同时被两路召回，正是融合要利用的证据，所以各路得分要相加；只取最高的一路或取平均，就把这份证据扔掉了。
# %% [markdown] exercise="rrf" hint="ties" lang="en"
# Two products with the same score must come in the same order every time, or no two runs of an experiment agree. Here: the smaller id first.
# %% [markdown] exercise="rrf" hint="ties" lang="zh" of="00000000"
# 同分商品的先后必须固定，否则同一个实验跑两次结果都对不上。本题约定：编号小的在前。
# %% [markdown] exercise="rrf" hint="cut_early" lang="en"
# A product ranked second by both lists may beat both winners. Cut to `depth` after fusing, not before.
# %% [markdown] exercise="rrf" hint="cut_early" lang="zh" of="00000000"
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
# %% [markdown] lang="zh" of="00000000"
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
plain = hard_negatives(np.array([row]), np.array([0]), [{0, 3}], count=3)[0]
assert hard_negatives(20 * row[None], np.array([0]), [{0, 3}], count=3)[0] == plain, "@fixed_limit"
assert list(plain) == sorted(plain, key=lambda product: -row[product]) and 7 not in plain, "@easy"
assert 1 not in plain, "@false_negative"
assert 3 not in plain, "@known"
assert list(plain) == [2, 4, 5], "@easy"
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
assert all(min(scores[i, f], default=1) >= min(scores[i, w]) - 1e-12 for i, (f, w) in enumerate(zip(got, want))), "@easy"
assert all((scores[i, f] <= 0.95 * scores[i, positive[i]]).all() for i, f in enumerate(got)), "@false_negative"
assert all(not known[i] & set(f) for i, f in enumerate(got)), "@known"
assert got == want, "@easy"
tight = np.sort(rng.uniform(0.5, 0.6, size=(3, 9)), axis=1)
tight[:, :2] = rng.uniform(0.1, 0.2, size=(3, 2))
found = hard_negatives(tight, np.array([2, 2, 2]), [{2}] * 3, count=4)
assert [sorted(map(int, f)) for f in found] == [[0, 1]] * 3, "@fill_up"
# %% [markdown] exercise="hard_negatives" hint="1" lang="en"
# Three questions per product, in any order: is it known to be right? Is it too close to the positive? Is it among the best of what is left?
# %% [markdown] exercise="hard_negatives" hint="1" lang="zh" of="00000000"
# 对每个商品问三件事，先后不限：它是不是已知正样本？得分是不是离正样本太近？在剩下的里面排得够不够靠前？
# %% [markdown] exercise="hard_negatives" hint="2" lang="en"
# `np.argsort(-row, kind="stable")` lists the products from the highest score down. Keep those with `row[product] <= share * row[own]` that are not in `right`, then cut.
# %% [markdown] exercise="hard_negatives" hint="2" lang="zh" of="00000000"
# `np.argsort(-row, kind="stable")` 按得分从高到低列出商品。保留满足 `row[product] <= share * row[own]` 且不在 `right` 里的，最后截取。
# %% [markdown] exercise="hard_negatives" hint="3" lang="en"
# `usable = [int(p) for p in order if row[p] <= limit and int(p) not in right]`, then `chosen.append(usable[:count])`.
# %% [markdown] exercise="hard_negatives" hint="3" lang="zh" of="00000000"
# `usable = [int(p) for p in order if row[p] <= limit and int(p) not in right]`，然后 `chosen.append(usable[:count])`。
# %% [markdown] exercise="hard_negatives" hint="fixed_limit" lang="en"
# The limit moves with the pair: 95 % of *its positive's* score. A fixed number such as 0.95 means nothing once scores have another scale; multiplying all scores by 20 must change nothing.
# %% [markdown] exercise="hard_negatives" hint="fixed_limit" lang="zh" of="00000000"
# 上限因训练对而异：是**这一对正样本得分**的 95 %。写死一个 0.95，分数换个量纲就失去意义；所有得分乘以 20，结果应当不变。
# %% [markdown] exercise="hard_negatives" hint="false_negative" lang="en"
# A product that scores nearly as high as the positive is probably right, and merely has no click yet. It must not become a negative: stay at or below `share` times the positive's score.
# %% [markdown] exercise="hard_negatives" hint="false_negative" lang="zh" of="00000000"
# 得分和正样本几乎一样高的商品，多半本来就相关，只是还没人点，这叫假负样本，不能拿来训练：得分必须不超过正样本得分的 `share` 倍。
# %% [markdown] exercise="hard_negatives" hint="known" lang="en"
# A query has several right products. Leave out all of `known[i]`, not only the one this pair happens to hold.
# %% [markdown] exercise="hard_negatives" hint="known" lang="zh" of="00000000"
# 一个查询往往有好几个正样本。`known[i]` 里的要全部排除，不能只排除这一对自己的那个。
# %% [markdown] exercise="hard_negatives" hint="easy" lang="en"
# Hard means high-scoring. Among the allowed products take the ones with the *highest* scores, in that order; a lamp teaches nothing about watches.
# %% [markdown] exercise="hard_negatives" hint="easy" lang="zh" of="00000000"
# “难”就是得分高。要在允许的商品里取得分**最高**的几个，并按得分从高到低给出；拿台灯当手表的负样本，模型学不到东西。
# %% [markdown] exercise="hard_negatives" hint="fill_up" lang="en"
# When fewer than `count` products are allowed, return fewer. Filling up with products above the limit brings the false negatives back in.
# %% [markdown] exercise="hard_negatives" hint="fill_up" lang="zh" of="00000000"
# 符合条件的不足 `count` 个时，有几个给几个。硬要凑数，就会把超过上限的假负样本又放回来。

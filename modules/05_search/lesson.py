# ---
# jupyter: {kernelspec: {display_name: Python 3, language: python, name: python3}}
# course: {module: 05_search, kind: lesson, title_en: "05 Search: the box that fails people", title_zh: "05 搜索：那个让人失望的搜索框", minutes: 90}
# ---
# %% [markdown] lang="en"
# # 05 Search: the box that fails people
#
# Persimmon is a general store on the web: sofas, headphones, frying pans, raincoats. People who use its search box want to buy
# something *now*, and the box keeps sending them away. In this lesson you take it apart, rebuild it in six layers, measure what each
# layer earns and what it costs, and decide which of them to ship.
#
# **You will be able to** compute BM25 by hand and say when it is enough; correct spelling from the catalogue; fine-tune a bi-encoder on
# clicks with hard negatives; fuse, re-rank and learn to rank without leaking the future; tell a real gain from noise.
# %% [markdown] lang="zh" of="00000000"
# # 05 搜索：那个让人失望的搜索框
#
# 柿集是一家综合电商，沙发、耳机、煎锅、雨衣什么都卖。会用搜索框的人，多半是**现在**就想买；可这个搜索框总把人气走。
# 这一课我们把它拆开，一层一层重建，共六层；每加一层都量一量：效果涨了多少，成本多了多少，最后决定哪几层值得上线。
#
# **学完你能够**：手算 BM25，并说清它什么时候就够用；用商品库自己的词表纠正拼写；用点击日志和难负样本微调双塔编码器（bi-encoder）；
# 做混合检索、重排和排序学习，而且不让特征穿越；分得清真提升和噪声。
# %% [markdown] lang="en"
# **Before this**: module 02 (tokens, embeddings) and 03 (softmax, InfoNCE); the two formulas you need are repeated here.
# **Cost, measured**: COST_EN
# **Its homework** builds the same parts with your own hands. Run the cells from top to bottom; nothing needs a network.
# %% [markdown] lang="zh" of="00000000"
# **先修**：模块 02（token、向量表示）和 03（softmax、InfoNCE）；要用到的两条公式，这里会再讲一遍。
# **实测开销**：COST_ZH
# **配套作业**要你亲手把这些部件再做一遍。请从上到下依次运行各单元格，全程不需要联网。
# %% lang="en"
from labkit.learn import begin

begin("05_search", lang="en")
# %% lang="zh"
from labkit.learn import begin

begin("05_search", lang="zh")

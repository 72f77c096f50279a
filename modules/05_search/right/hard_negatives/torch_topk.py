"""The whole matrix at once with torch.topk, as one would on a GPU."""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    scores = torch.tensor(np.asarray(scores), dtype=torch.float64)  # (Q, N)
    own = scores.gather(1, torch.tensor(np.asarray(positive)).long()[:, None])  # (Q, 1)
    banned = scores > share * own
    for i, right in enumerate(known):
        banned[i, list(right)] = True
    top = scores.masked_fill(banned, -torch.inf).topk(min(count, scores.shape[1]), dim=1)
    return [
        [int(p) for p, s in zip(ids, values, strict=True) if s > -torch.inf]
        for ids, values in zip(top.indices, top.values, strict=True)
    ]

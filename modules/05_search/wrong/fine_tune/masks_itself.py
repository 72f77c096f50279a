"""hint: own_positive
en: Masks every known positive, the query's own title included.
zh: 把所有已知正样本都遮掉了，连查询自己的标题也没留下。
"""


def in_batch_loss(queries, titles, same, temperature=0.05):
    logits = queries @ titles.T / temperature
    others = same
    logits = logits.masked_fill(others, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(same), device=logits.device))


def fine_tune(pairs, queries, titles):
    torch.manual_seed(0)
    device = choose_device()
    encoder = BiEncoder.from_pretrained("minilm", device=str(device.device))
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

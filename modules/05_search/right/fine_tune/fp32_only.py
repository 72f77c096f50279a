"""No autocast: plain float32 everywhere, a fixed number of steps with replacement, the loss row by row."""


def in_batch_loss(queries, titles, same, temperature=0.05):
    total = 0.0
    for i in range(len(queries)):
        kept = [j for j in range(len(queries)) if j == i or not bool(same[i, j])]
        scores = titles[kept] @ queries[i] / temperature
        total = total - scores.log_softmax(dim=0)[kept.index(i)]
    return total / len(queries)


def fine_tune(pairs, queries, titles):
    torch.manual_seed(0)
    encoder = BiEncoder.from_pretrained("minilm", device="cpu")
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-4)
    right = {(query, title) for query, title in pairs}
    for _ in range(22):
        batch = [pairs[i] for i in torch.randint(len(pairs), (20,)).tolist()]
        q = encoder.embed(encoder.tokenize([query for query, _ in batch]))
        d = encoder.embed(encoder.tokenize([title for _, title in batch]))
        same = torch.tensor([[(query, title) in right for _, title in batch] for query, _ in batch])
        optimizer.zero_grad()
        in_batch_loss(q, d, same).backward()
        optimizer.step()
    return encoder.encode(queries), encoder.encode(titles)

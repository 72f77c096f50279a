"""The loss by logsumexp on multiplied masks; a DataLoader; warm-up; symmetric training left out."""

from torch.utils.data import DataLoader


def in_batch_loss(queries, titles, same, temperature=0.05):
    scores = queries @ titles.T / temperature
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    keep = own | ~same.to(scores.device)
    denominator = torch.where(keep, scores, torch.full_like(scores, -1e9)).logsumexp(dim=1)
    return (denominator - scores.diagonal()).mean()


def fine_tune(pairs, queries, titles):
    torch.manual_seed(0)
    device = choose_device()
    encoder = BiEncoder.from_pretrained("minilm", device=str(device.device)).train()
    known = defaultdict(set)
    for query, title in pairs:
        known[query].add(title)
    loader = DataLoader(list(pairs), batch_size=16, shuffle=True, collate_fn=lambda batch: batch)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=4)
    for _ in range(3):
        for batch in loader:
            asked, shown = [query for query, _ in batch], [title for _, title in batch]
            with device.autocast():
                q = encoder.embed(encoder.tokenize(asked))
                d = encoder.embed(encoder.tokenize(shown))
            same = torch.tensor([[s in known[a] for s in shown] for a in asked])
            loss = in_batch_loss(q.float(), d.float(), same)
            loss.backward()
            optimizer.step()
            warmup.step()
            optimizer.zero_grad()
    return encoder.encode(queries), encoder.encode(titles)

"""Several runs on one resident base model (multi-LoRA, as in mLoRA, https://arxiv.org/abs/2312.02515).

Every run is the whole of ``trainer.train`` on a thread of its own, with its own adapter, optimizer, schedule, data
cursor and random state; ``turns`` lets one of them compute at a time. Where runs would go through the model they wait
for each other, and ``exchange`` takes the documents of all through the base in one pack, each segment through its own
adapter.
"""

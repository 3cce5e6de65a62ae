"""Networks that read one picture of flow an event: (B, 3, S, S) of u, v, strain → class logits."""

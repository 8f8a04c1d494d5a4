"""The model's parts as every runtime computes them, said once, in `Operations`: `bitgen/model` in evaluation mode.

    image_encoder   pixels -> start, dual, code, embedding
    text_encoder    rows of tokens -> start, code, embedding
    fusion          start states of pairs -> fused states and the log-odds that they match
    grounding       fused states and phrases -> boxes and heat
    decoder_start   an image's dual states and what it recalls -> keys and values of the context
    decoder_step    the newest token, the keys and values so far -> logits and keys and values

Tensors are named as in the packed file. Axes: B images, T texts, Q pairs, P phrases of a text, L tokens, N patches, K sequences of
an image, C = N + 1 context states, H heads, V classes, d width.
"""

import math

import numpy as np

from bitgen.deploy.attention import mix, split
from bitgen.deploy.operations import Operations, Value
from bitgen.deploy.packed import Facts
from bitgen.deploy.vision import patch_tokens

PARTS = ("image_encoder", "text_encoder", "fusion", "grounding", "decoder_start", "decoder_step")
"""Methods of `Parts`, and names of the graphs that they become."""
NORM_EPS = 1e-6
"""`bitgen.model.bitlinear`'s."""


class Parts:
    def __init__(self, operations: Operations, facts: Facts) -> None:
        self.o, self.facts, self.config = operations, facts, facts.config
        self.patches = (facts.image_px // facts.vision["patch_size"]) ** 2
        self._is_gated = self.config.fusion == "gated"

    def image_encoder(self, pixels: Value) -> dict[str, Value]:
        """start, dual [B, N, d], code and unit embedding [B, d] of `pixels` [B, 3, S, S] uint8."""
        o, config = self.o, self.config
        x = patch_tokens(o, pixels, self.facts.vision, self.facts.image_px, config.vision.feature_layers)
        x = o.linear(o.gelu(o.linear(x, "compressor.layers.0")), "compressor.layers.2")
        x = o.layer_norm(x, "compressor.layers.3")
        start = o.add(x, grid_positions(o, math.isqrt(self.patches), config.width))
        dual = start
        for i in range(config.fusion_layers):
            dual = self._layer(dual, f"image_layers.{i}")
        dual = o.layer_norm(dual, "image_norm")
        query = o.weight("image_pool.query", (config.width, 1))
        scores = o.matmul(o.linear(dual, "image_pool.key"), query)  # [B, N, 1]
        scores = o.divide(scores, o.constant(math.sqrt(config.width)))
        shares = o.softmax(o.transpose(scores, (0, 2, 1)))
        code = o.reshape(o.matmul(shares, dual), (0, -1))
        embedding = o.unit(o.linear(code, "image_projection"))
        return {"start": start, "dual": dual, "code": code, "embedding": embedding}

    def text_encoder(self, rows: Value, positions: Value, mask: Value) -> dict[str, Value]:
        """start [T, L, d], code and unit embedding [T, d] of `rows` [T, L] of the embedding.

        Args:
            positions: [L], 0 and up.
            mask: [T, L] bool, true off padding.
        """
        o, config = self.o, self.config
        states = o.add(o.rows("text.token", rows), o.gather(o.weight("text.position.weight"), positions))
        start = o.layer_norm(states, "text.embedding_norm")
        for i in range(config.text_layers - config.fusion_layers):
            start = self._layer(start, f"text.layers.{i}", mask)
        dual = start
        for i in range(config.fusion_layers):
            dual = self._layer(dual, f"text.fused_layers.{i}", mask)
        code = self._pooled(o.layer_norm(dual, "text.norm"), mask)
        return {"start": start, "code": code, "embedding": o.unit(o.linear(code, "text_projection"))}

    def fusion(self, image: Value, text: Value, mask: Value) -> dict[str, Value]:
        """fused_image [Q, N, d], fused_text [Q, L, d], and odds [Q]: the log-odds that the two of a pair belong together.

        Args: start states `image` [Q, N, d] and `text` [Q, L, d], `mask` [Q, L] bool.
        """
        o = self.o
        for i in range(self.config.fusion_layers):
            names = f"image_layers.{i}", f"text.fused_layers.{i}"
            image, text = self._fused(image, None, text, mask, names[0]), self._fused(text, mask, image, None, names[1])
        image, text = o.layer_norm(image, "image_norm"), o.layer_norm(text, "text.norm")
        pooled = [o.linear(o.mean(image, 1), "match_image"), o.linear(self._pooled(text, mask), "match_text")]
        logits = o.linear(o.tanh(o.concat(pooled, -1)), "match_head")
        odds = o.reshape(o.subtract(o.cut(logits, 1, 1, 2), o.cut(logits, 1, 0, 1)), (-1,))
        return {"fused_image": image, "fused_text": text, "odds": odds}

    def grounding(self, patches: Value, text: Value, shares: Value) -> dict[str, Value]:
        """centres [T, P, 4], as cx cy width height in 0..1, and heat [T, P, N], logits.

        Args:
            patches: [T, N, d] fused; text: [T, L, d] fused.
            shares: [T, P, L], of each token in its phrase's mean.
        """
        o, config = self.o, self.config
        queries = o.add(o.weight("grounding.regression"), o.matmul(shares, text))
        for i in range(config.grounding_layers):
            queries = o.add(queries, self._attention(queries, patches, f"grounding.cross_attention.{i}"))
            queries = o.add(queries, self._feed_forward(queries, f"grounding.feed_forward.{i}"))
        queries = o.layer_norm(queries, "grounding.norm")
        seen = o.linear(o.layer_norm(patches, "grounding.patch_norm"), "grounding.heat_patch")
        heat = o.matmul(o.linear(queries, "grounding.heat_query"), o.transpose(seen, (0, 2, 1)))
        box = o.gelu(o.linear(queries, "grounding.box.0"))
        box = o.linear(o.gelu(o.linear(box, "grounding.box.2")), "grounding.box.4")
        scale = o.constant(1 / math.sqrt(config.width))
        return {"centres": o.sigmoid(box), "heat": o.multiply(heat, scale)}

    def decoder_start(self, dual: Value, reading: Value) -> dict[str, Value]:
        """context_key_i and context_value_i [B, H, C, d / H] of each layer i.

        Args: `dual` [B, N, d]; `reading` [B, d] of the memory, times its confidence; zeros without one.
        """
        o = self.o
        token = o.reshape(o.linear(reading, "reading_projection"), (0, 1, -1))
        context = o.concat([dual, token], 1)
        found: dict[str, Value] = {}
        for i in range(self.config.decoder_layers):
            key, value = self._keys_values(context, f"decoder.layers.{i}.cross_attention")
            found |= {f"context_key_{i}": key, f"context_value_{i}": value}
        return found

    def decoder_step(self, rows: Value, position: Value, seen: Value, cache: dict[str, Value]) -> dict[str, Value]:
        """logits [B, K, V] of the next token, and key_i and value_i [B K, H, L + 1, d / H].

        Args:
            rows: [B, K] of the embedding, of the newest tokens.
            position: [1], of these: L.
            seen: [B, C] bool, which context states may be seen.
            cache: past_key_i and past_value_i [B K, H, L, d / H], of the tokens before, and what `decoder_start` gives.
        """
        o, config = self.o, self.config
        states = o.add(o.rows("text.token", rows), o.gather(o.weight("decoder.position.weight"), position))
        states = o.layer_norm(states, "decoder.embedding_norm")
        found: dict[str, Value] = {}
        for i in range(config.decoder_layers):
            name = f"decoder.layers.{i}"
            newest = o.reshape(states, (-1, 1, config.width))
            key, value = self._keys_values(newest, f"{name}.attention")
            key, value = o.concat([cache[f"past_key_{i}"], key], 2), o.concat([cache[f"past_value_{i}"], value], 2)
            found |= {f"key_{i}": key, f"value_{i}": value}
            attended = self._attend(newest, key, value, f"{name}.attention")
            states = o.add(states, o.reshape_as(attended, states))
            context = cache[f"context_key_{i}"], cache[f"context_value_{i}"]
            states = o.add(states, self._attend(states, *context, f"{name}.cross_attention", seen))
            states = o.add(states, self._feed_forward(states, f"{name}.feed_forward"))
        states = o.layer_norm(states, "decoder.norm")
        return {"logits": o.products(states, "text.token", config.vocabulary), **found}

    def _layer(self, states: Value, name: str, mask: Value = None) -> Value:
        """In dual-encoder mode."""
        states = self.o.add(states, self._attention(states, states, f"{name}.attention", mask))
        return self.o.add(states, self._feed_forward(states, f"{name}.feed_forward"))

    def _fused(self, states: Value, mask: Value, context: Value, context_mask: Value, name: str) -> Value:
        o = self.o
        if self._is_gated:
            attended = self._attention(states, states, f"{name}.attention", mask)
            crossed = self._attention(attended, context, f"{name}.cross_attention", context_mask)
            attended = o.add(attended, o.multiply(o.weight(f"{name}.gate"), crossed))
        else:
            patches = o.repeat(o.constant(np.ones((1, self.patches), bool)), states)
            seen = o.concat([patches if mask is None else mask, patches if context_mask is None else context_mask], 1)
            attended = self._attention(states, o.concat([states, context], 1), f"{name}.attention", seen)
        states = o.add(states, attended)
        return o.add(states, self._feed_forward(states, f"{name}.feed_forward"))

    def _attention(self, states: Value, context: Value, name: str, mask: Value = None) -> Value:
        return self._attend(states, *self._keys_values(context, name), name, mask)

    def _keys_values(self, context: Value, name: str) -> tuple[Value, Value]:
        both, d = self._bit_linear(context, f"{name}.key_value"), self.config.width
        return self._split(self.o.cut(both, 2, 0, d)), self._split(self.o.cut(both, 2, d, 2 * d))

    def _attend(self, states: Value, key: Value, value: Value, name: str, mask: Value = None) -> Value:
        """`mask` [.., C] bool, true where the context may be seen."""
        query = self._split(self._bit_linear(states, f"{name}.query"))
        mixed = mix(self.o, query, key, value, self.config.width // self.config.heads, mask)
        return self._bit_linear(mixed, f"{name}.output")

    def _feed_forward(self, states: Value, name: str) -> Value:
        return self._bit_linear(self.o.gelu(self._bit_linear(states, f"{name}.up")), f"{name}.down")

    def _bit_linear(self, x: Value, name: str) -> Value:
        if name in self.facts.in_widths:
            return self.o.ternary(x, name)
        return self.o.linear(self.o.root_mean_square_norm(x, NORM_EPS), name)

    def _split(self, states: Value) -> Value:
        return split(self.o, states, self.config.heads)

    def _pooled(self, states: Value, mask: Value) -> Value:
        """[T, d] of [T, L, d], by `text_pooling`."""
        o = self.o
        shares = o.floats(mask)
        if self.config.text_pooling == "end":
            # The last true of a row is true where the next one is not.
            later = o.concat([o.cut(shares, 1, 1, 2**31 - 1), o.multiply(o.cut(shares, 1, 0, 1), o.constant(0.0))], 1)
            shares = o.subtract(shares, later)
        summed = o.sum(o.multiply(states, o.reshape(shares, (0, -1, 1))), 1)
        return o.divide(summed, o.reshape(o.sum(shares, 1), (-1, 1)))


def grid_positions(o: Operations, side: int, width: int) -> Value:
    """`bitgen.model.bitgen.grid_positions`, [side * side, width]: put together from one axis, as that is all a graph then holds."""
    frequency = 100.0 ** -(np.arange(width // 4) / (width // 4))
    angle = (np.arange(side) + 0.5)[:, None] * (16 / side) * frequency
    axis = np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
    columns = o.repeat(o.constant(axis[None]), o.constant(axis))
    both = o.concat([o.transpose(columns, (1, 0, 2)), columns], -1)
    return o.reshape(both, (side * side, width))

// What the page computes, and how it reads its data; the twin of minilm_np/study/packing.py.
// All arithmetic is in float64. LayerNorm, GELU and what they use must give Python's bits: the order of the operations
// matters.
"use strict";

const LN2_HIGH = 0.6931471803691238;
const LN2_LOW = 1.9082149292705877e-10;
const LARGEST_MAGNITUDE = 37;
const INVERSE_FACTORIALS = [1];
for (let k = 1, factorial = 1; k <= 13; k++) INVERSE_FACTORIALS[k] = 1 / (factorial *= k);
const power = new DataView(new ArrayBuffer(8));
const floats = new Float32Array(1);
const bits = new Int32Array(floats.buffer);

/** Return e^y for -700 < y <= 0. */
function exponential(y) {
  const n = Math.floor(y * (1 / Math.LN2) + 0.5);
  const r = y - n * LN2_HIGH - n * LN2_LOW;
  let p = INVERSE_FACTORIALS[13];
  for (let k = 12; k >= 0; k--) p = p * r + INVERSE_FACTORIALS[k];
  power.setUint32(0, (n + 1023) << 20); // 2^n: the exponent of a float64
  return p * power.getFloat64(0);
}

/** Return Phi(-|x|), the tail of the normal distribution. */
function normalTail(x, coefficients, scale) {
  const magnitude = Math.min(Math.abs(x), LARGEST_MAGNITUDE);
  const t = 1 / (1 + scale * magnitude);
  let tail = coefficients[0];
  for (let k = 1; k < coefficients.length; k++) tail = tail * t + coefficients[k];
  return tail * t * exponential(magnitude * magnitude * -0.5);
}

function gelu(x, coefficients, scale) {
  return Math.max(x, 0) - Math.min(Math.abs(x), LARGEST_MAGNITUDE) * normalTail(x, coefficients, scale);
}

/** Return {mean, variance, normalized, values} of one row; sums from left to right. */
function layerNorm(row, weight, bias, eps) {
  let mean = 0;
  for (const x of row) mean += x;
  mean /= row.length;
  const centered = Float64Array.from(row, (x) => x - mean);
  let variance = 0;
  for (const c of centered) variance += c * c;
  variance /= row.length;
  const deviation = Math.sqrt(variance + eps);
  const normalized = centered.map((c) => c / deviation);
  return { mean, variance, normalized, values: normalized.map((z, j) => z * weight[j] + bias[j]) };
}

/** Return the float32 number that is `steps` above a float64 number rounded to float32. */
function stepsAbove(recomputed, steps) {
  floats[0] = recomputed;
  const ordered = (bits[0] < 0 ? -(2 ** 31) - bits[0] - 1 : bits[0]) + steps;
  bits[0] = ordered < 0 ? -(2 ** 31) - ordered - 1 : ordered;
  return floats[0];
}

function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

function softmax(scores) {
  const largest = Math.max(...scores);
  const exponentials = scores.map((s) => Math.exp(s - largest));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return { largest, exponentials, sum, probs: exponentials.map((e) => e / sum) };
}

/** Return the bytes that base64 and zlib hide. */
async function unpack(base64) {
  const text = atob(base64);
  const compressed = new Uint8Array(text.length); // Uint8Array.from takes ten times as long
  for (let i = 0; i < text.length; i++) compressed[i] = text.charCodeAt(i);
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The blocks of the data: four planes of bytes for each. */
class Blocks {
  constructor(bytes) {
    this.bytes = bytes;
  }

  words([position, count]) {
    const start = 4 * position;
    const words = new Uint32Array(count);
    const planes = [0, 1, 2, 3].map((k) => this.bytes.subarray(start + k * count, start + (k + 1) * count));
    for (let i = 0; i < count; i++) {
      words[i] = planes[0][i] | (planes[1][i] << 8) | (planes[2][i] << 16) | (planes[3][i] << 24);
    }
    return words;
  }

  floats(block) {
    return new Float32Array(this.words(block).buffer);
  }

  steps(block) {
    return Int32Array.from(this.words(block), (word) => (word >>> 1) ^ -(word & 1));
  }
}

/** Every stage of the texts: stored numbers, or recomputed ones that are corrected to the model's bits. */
class Stages {
  constructor(data, bytes) {
    this.data = data;
    this.config = data.config;
    this.blocks = new Blocks(bytes);
    this.known = new Map();
    this.H = data.config.hidden_size;
    this.heads = data.config.num_attention_heads;
    this.D = this.H / this.heads;
    this.last = `encoder.layer.${data.config.num_hidden_layers - 1}.output`;
  }

  has(name) {
    return name in this.data.stages;
  }

  width(name) {
    return name.endsWith("intermediate") ? this.config.intermediate_size : this.H;
  }

  /** All numbers of a stage, of all texts. */
  all(name) {
    if (this.known.has(name)) return this.known.get(name);
    const stored = this.data.stages[name];
    if (!stored) return null;
    const values = stored.values ? this.blocks.floats(stored.values) : this.corrected(name, stored);
    this.known.set(name, values);
    return values;
  }

  corrected(name, stored) {
    const input = this.inputs(name);
    const steps = this.blocks.steps(stored.steps);
    const values = new Float32Array(input.length);
    if (name.endsWith("intermediate")) {
      for (let i = 0; i < input.length; i++) values[i] = stepsAbove(this.gelu(input[i]), steps[i]);
      return values;
    }
    const [weight, bias] = this.norm(name);
    for (let start = 0; start < input.length; start += this.H) {
      const row = input.subarray(start, start + this.H);
      layerNorm(row, weight, bias, this.config.layer_norm_eps).values.forEach((value, j) => {
        values[start + j] = stepsAbove(value, steps[start + j]);
      });
    }
    return values;
  }

  gelu(x) {
    return gelu(x, this.data.tail_coefficients, this.data.tail_scale);
  }

  /** The input of the LayerNorm or of the activation that ends a stage; null if it is not stored. */
  inputs(name) {
    const key = `${name} input`;
    const stored = this.data.stages[name];
    if (!stored || !stored.input) return null;
    if (!this.known.has(key)) this.known.set(key, this.blocks.floats(stored.input));
    return this.known.get(key);
  }

  /** The weight and the bias of the LayerNorm that ends a stage. */
  norm(name) {
    return ["weight", "bias"].map((part) => this.parameter(`${name}.LayerNorm.${part}`));
  }

  parameter(name) {
    if (!this.known.has(name)) this.known.set(name, this.blocks.floats(this.data.weights[name]));
    return this.known.get(name);
  }

  /** The row of an embedding table for an id. */
  row(table, id) {
    const { ids, rows } = this.data.rows[table];
    const at = ids.indexOf(id) * this.H;
    return this.blocks.floats(rows).subarray(at, at + this.H);
  }

  /** Return {shape, data} of a stage of one text (its number); null if the page does not have it. */
  value(name, text) {
    const [start, stop] = this.data.offsets.slice(text, text + 2);
    const S = stop - start;
    const values = this.all(name);
    if (!values) return null;
    if (name.endsWith("attention_probs")) {
      let at = 0;
      for (let i = 0; i < text; i++) at += this.heads * (this.data.offsets[i + 1] - this.data.offsets[i]) ** 2;
      return { shape: [this.heads, S, S], data: values.subarray(at, at + this.heads * S * S) };
    }
    if (name === "pooled" || name === "sentence_embedding") {
      return { shape: [this.H], data: values.subarray(text * this.H, (text + 1) * this.H) };
    }
    const width = this.width(name);
    return { shape: [S, width], data: values.subarray(start * width, stop * width) };
  }

  /** The rows of what goes into a LayerNorm or an activation, for one text. */
  input(name, text) {
    const values = this.inputs(name);
    const [start, stop] = this.data.offsets.slice(text, text + 2);
    const width = this.width(name);
    return values && values.subarray(start * width, stop * width);
  }

  /** Row t of a stage of one text. */
  token(name, text, t) {
    const value = this.value(name, text);
    const width = value && value.shape[1];
    return value && value.data.subarray(t * width, (t + 1) * width);
  }

  /** How much each token adds to the pooled vector, (S, H) as rows of float64; as weighted_tokens in similarity.py. */
  weighted(text) {
    const { shape, data } = this.value(this.last, text);
    const [S, H] = shape;
    const mode = this.config.pooling_mode;
    const rows = [];
    for (let t = 0; t < S; t++) rows.push(Float64Array.from(data.subarray(t * H, (t + 1) * H)));
    if (mode === "mean") return rows.map((row) => row.map((x) => x / S));
    if (mode === "mean_sqrt_len_tokens") return rows.map((row) => row.map((x) => x / Math.sqrt(S)));
    const chosen = Array.from({ length: H }, (_, j) => {
      let best = 0;
      if (mode === "max") for (let t = 1; t < S; t++) if (rows[t][j] > rows[best][j]) best = t;
      return best;
    });
    return rows.map((row, t) => row.map((x, j) => (chosen[j] === t ? x : 0)));
  }

  /** The cosine of two texts as a sum over pairs of tokens: {rows, columns, values}; as token_pairs in similarity.py. */
  tokenPairs() {
    if (this.data.texts.length < 2) return null;
    const [a, b] = [this.weighted(0), this.weighted(1)];
    const [u, v] = [a, b].map((rows) => rows.reduce((sum, row) => sum.map((x, j) => x + row[j])));
    const lengths = [u, v].map((x) => Math.max(Math.sqrt(dot(x, x)), 1e-12));
    const values = a.map((x) => b.map((y) => dot(x, y) / (lengths[0] * lengths[1])));
    const [rows, columns] = this.data.texts.map((text) => text.tokens);
    return { rows, columns, values };
  }

  cosine() {
    const pairs = this.tokenPairs();
    return pairs && pairs.values.flat().reduce((a, b) => a + b, 0);
  }
}

// The page: what it shows, and how one moves through it.
"use strict";

const $ = (selector) => document.querySelector(selector);

/** Create an element: element("td", { class: "number" }, "0.5", child). */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e-4 && Math.abs(x) < 1e5 ? x.toPrecision(5) : x.toExponential(3));
const exact = (x) => String(x);
const sum = (values) => values.reduce((a, b) => a + b, 0);

/** Return a table with a header row and, in each row, a header cell. */
function table(caption, columns, rows, attributes = {}) {
  const cell = (value, i) => (i ? element("td", {}, String(value)) : element("th", { scope: "row" }, String(value)));
  return element(
    "table",
    attributes,
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...columns.map((name) => (name ? element("th", { scope: "col" }, name) : element("td"))))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell)))),
  );
}

/** A box that can be scrolled, also by keyboard. */
function scroller(label, ...children) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, ...children);
}

/** A picture's numbers as a table, made when it is opened. */
function numbers(label, make) {
  const details = element("details", { class: "numbers" }, element("summary", {}, `${label}: numbers as a table`));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(scroller(label, make()));
  });
  return details;
}

// --- colors ------------------------------------------------------------------------------------

let isPrinting = false;
const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches && !isPrinting;

/** Return a function from a value to [red, green, blue]: negative blue, 0 the page's background, positive orange. */
function colors(largest) {
  const dark = isDark();
  const zero = dark ? [24, 26, 30] : [255, 255, 255];
  const ends = dark ? [[96, 165, 250], [251, 146, 60]] : [[29, 78, 216], [194, 65, 12]];
  return (value) => {
    const share = largest ? Math.min(1, Math.abs(value) / largest) ** 0.6 : 0;
    const end = ends[value < 0 ? 0 : 1];
    return zero.map((c, k) => Math.round(c + (end[k] - c) * share));
  };
}

/** Return the magnitude that gets the full color: the 99.5th percentile, so that outliers do not hide the others. */
function scaleOf(values) {
  const step = Math.max(1, Math.floor(values.length / 5000));
  if (values.length < 1000) return d3.max(values, Math.abs) || 0;
  const sample = Float64Array.from({ length: Math.ceil(values.length / step) }, (_, i) => Math.abs(values[i * step]));
  sample.sort();
  return sample[Math.floor(0.995 * (sample.length - 1))] || sample[sample.length - 1] || 0;
}

// --- heat maps ---------------------------------------------------------------------------------

/** Draw values (rows x columns, flat) on a canvas, each as a block of cell[0] x cell[1] pixels. */
function paint(canvas, values, rows, columns, cell, largest) {
  canvas.width = Math.max(1, columns * cell[0]);
  canvas.height = Math.max(1, rows * cell[1]);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const color = colors(largest);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const [red, green, blue] = color(values[r * columns + c]);
      for (let y = r * cell[1]; y < (r + 1) * cell[1]; y++) {
        for (let x = c * cell[0]; x < (c + 1) * cell[0]; x++) {
          const at = 4 * (y * canvas.width + x);
          image.data[at] = red;
          image.data[at + 1] = green;
          image.data[at + 2] = blue;
          image.data[at + 3] = 255;
        }
      }
    }
  }
  context.putImageData(image, 0, 0);
}

/** Draw a small picture of a stage: where there are more columns than pixels, some are left out. */
function thumbnail(values, rows, columns, width, height) {
  const canvas = element("canvas", { class: "thumbnail", "aria-hidden": "true" });
  const [R, C] = [Math.min(rows, height), Math.min(columns, width)];
  const small = new Float32Array(R * C);
  for (let r = 0; r < R; r++) {
    for (let c = 0; c < C; c++) {
      const from = Math.floor((c * columns) / C);
      small[r * C + c] = values[Math.floor((r * rows) / R) * columns + from];
    }
  }
  const cell = [Math.max(1, Math.floor(width / C)), Math.max(1, Math.floor(height / R))];
  paint(canvas, small, R, C, cell, scaleOf(values));
  repaints.push([canvas, () => paint(canvas, small, R, C, cell, scaleOf(values))]);
  return canvas;
}

const repaints = []; // canvases and how to draw them again when the color scheme changes

/**
 * A heat map whose elements are chosen by mouse, or by the arrow keys and Enter.
 * label: what it shows. pick(row, column): called for the chosen element.
 */
function heatMap({ label, values, rows, columns, rowNames, columnNames, cell, pick, largest, named }) {
  const help = pick ? "Arrow keys move, Enter opens the arithmetic." : "Arrow keys move.";
  const canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": `${label}. ${help}`, class: pick ? "" : "still" });
  const readout = element("p", { class: "readout", "aria-live": "polite" }, "\u00a0");
  const cursor = element("span", { class: "cursor", hidden: true });
  const frame = element("div", { class: "map" }, canvas, cursor);
  const full = largest ?? scaleOf(values);
  const size = cell ?? [Math.max(1, Math.min(18, Math.floor(760 / columns))), Math.max(6, Math.min(18, Math.floor(360 / rows)))];
  const draw = () => paint(canvas, values, rows, columns, size, full);
  draw();
  repaints.push([canvas, draw]);
  let at = [0, 0];
  function show(r, c) {
    at = [Math.min(rows - 1, Math.max(0, r)), Math.min(columns - 1, Math.max(0, c))];
    cursor.hidden = false;
    cursor.style.cssText = `left:${at[1] * size[0]}px;top:${at[0] * size[1]}px;width:${size[0]}px;height:${size[1]}px`;
    const value = values[at[0] * columns + at[1]];
    readout.textContent = `${rowNames(at[0])}, ${columnNames(at[1])}: ${exact(value)}`;
  }
  const position = (event) => {
    const box = canvas.getBoundingClientRect();
    return [Math.floor((event.clientY - box.top) / size[1]), Math.floor((event.clientX - box.left) / size[0])];
  };
  canvas.addEventListener("mousemove", (event) => show(...position(event)));
  canvas.addEventListener("click", (event) => {
    show(...position(event));
    if (pick) pick(...at);
  });
  canvas.addEventListener("focus", () => show(...at));
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -columns], End: [0, columns], PageUp: [0, -32], PageDown: [0, 32] };
    if (pick && (event.key === "Enter" || event.key === " ")) pick(...at);
    else if (moves[event.key]) show(at[0] + moves[event.key][0], at[1] + moves[event.key][1]);
    else return;
    event.preventDefault();
  });
  const isNamed = named && Math.min(...size) >= 10;
  const names = (count, name, side) => element("div", { class: side, "aria-hidden": "true" }, ...d3.range(count).map((i) => element("span", { style: `${side === "left" ? "height" : "width"}:${size[side === "left" ? 1 : 0]}px;font-size:${Math.min(12, Math.min(...size) - 1)}px` }, name(i))));
  const parts = isNamed ? [names(columns, columnNames, "top"), names(rows, rowNames, "left")] : [];
  return element("figure", { class: "heat" }, element("figcaption", {}, label), element("div", { class: "scroll-x" }, element("div", { class: isNamed ? "named" : "" }, ...parts, frame)), readout);
}

// --- curves ------------------------------------------------------------------------------------

/** Draw lines over named points: series is [{ name, values }]. */
function lineChart(label, names, series) {
  const [width, height, margin] = [640, 240, { left: 56, right: 12, top: 12, bottom: 72 }];
  const svg = d3.select(element("div")).append("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("role", "img").attr("aria-label", label);
  const x = d3.scalePoint(d3.range(names.length), [margin.left, width - margin.right]);
  const all = series.flatMap((one) => one.values).filter(Number.isFinite);
  const [low, high] = d3.extent([...all, 0]);
  const y = d3.scaleLinear([low, high || 1], [height - margin.bottom, margin.top]).nice();
  const every = Math.ceil(names.length / 28);
  svg.append("g").attr("transform", `translate(0,${height - margin.bottom})`).call(d3.axisBottom(x).tickFormat((i) => (i % every ? "" : names[i])))
    .selectAll("text").attr("transform", "rotate(-40)").attr("text-anchor", "end").attr("dx", "-0.4em").attr("dy", "0.4em");
  svg.append("g").attr("transform", `translate(${margin.left},0)`).call(d3.axisLeft(y).ticks(5));
  series.forEach((one, k) => {
    svg.append("path").attr("class", `line line-${k}`).attr("d", d3.line((_, i) => x(i), (value) => y(value))(one.values));
    svg.append("g").selectAll("circle").data(one.values).join("circle").attr("class", `dot dot-${k}`).attr("r", 3).attr("cx", (_, i) => x(i)).attr("cy", (value) => y(value));
  });
  const legend = series.length > 1 ? element("p", { class: "legend" }, ...series.map((one, k) => element("span", { class: `key key-${k}` }, one.name))) : null;
  const rows = () => table(label, ["", ...series.map((one) => one.name)], names.map((name, i) => [name, ...series.map((one) => short(one.values[i]))]));
  return element("figure", {}, element("figcaption", {}, label), svg.node(), legend, numbers(label, rows));
}

/** Draw bars, up and down from 0. */
function barChart(label, names, values) {
  const [width, height, margin] = [640, 220, { left: 56, right: 12, top: 12, bottom: 72 }];
  const svg = d3.select(element("div")).append("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("role", "img").attr("aria-label", label);
  const x = d3.scaleBand(d3.range(names.length), [margin.left, width - margin.right]).padding(0.15);
  const y = d3.scaleLinear(d3.extent([...values, 0]), [height - margin.bottom, margin.top]).nice();
  const every = Math.ceil(names.length / 28);
  svg.append("g").attr("transform", `translate(0,${height - margin.bottom})`).call(d3.axisBottom(x).tickFormat((i) => (i % every ? "" : names[i])))
    .selectAll("text").attr("transform", "rotate(-40)").attr("text-anchor", "end").attr("dx", "-0.4em").attr("dy", "0.4em");
  svg.append("g").attr("transform", `translate(${margin.left},0)`).call(d3.axisLeft(y).ticks(5));
  svg.append("g").selectAll("rect").data(values).join("rect").attr("class", (value) => (value < 0 ? "bar negative" : "bar"))
    .attr("x", (_, i) => x(i)).attr("width", x.bandwidth()).attr("y", (value) => y(Math.max(0, value))).attr("height", (value) => Math.abs(y(value) - y(0)));
  const rows = () => table(label, ["", "value"], names.map((name, i) => [name, short(values[i])]));
  return element("figure", {}, element("figcaption", {}, label), svg.node(), numbers(label, rows));
}

/** Count values in 40 bins; the 0.2 % smallest and largest are counted in the outermost bins. */
function histogram(label, values) {
  const sorted = Float32Array.from(values).sort();
  const [low, high] = [0.002, 0.998].map((share) => sorted[Math.floor(share * (sorted.length - 1))]);
  const bins = 40;
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.max(0, Math.min(bins - 1, Math.floor(((value - low) / (high - low || 1)) * bins)))]++;
  const names = counts.map((_, i) => (low + ((i + 0.5) * (high - low)) / bins).toFixed(2));
  return barChart(`${label}: ${sorted.length} numbers from ${short(sorted[0])} to ${short(sorted[sorted.length - 1])}; the outermost bars hold all beyond`, names, counts);
}

// --- the page ----------------------------------------------------------------------------------

class Page {
  constructor(stages) {
    this.stages = stages;
    this.data = stages.data;
    this.config = stages.config;
    this.layer = 0;
  }

  show() {
    this.showTexts();
    this.showModel();
    this.showLayer(0);
    this.showSimilarity();
    this.showAblation();
    this.showQuestions();
    for (const { name, text, index } of [{ name: "sentence_embedding", text: 0, index: [0] }]) this.openCell(name, text, index, false);
  }

  tokenName(text, t) {
    return `${this.data.texts[text].tokens[t]} (${t})`;
  }

  /** (a) the texts as word pieces. */
  showTexts() {
    for (const [i, text] of this.data.texts.entries()) {
      const rows = text.tokens.map((token, t) => [t, token, text.ids[t], text.types[t], text.positions[t]]);
      const unknown = text.tokens.filter((token) => token === "[UNK]").length;
      const notes = [];
      if (unknown) notes.push(`${unknown} of these are [UNK]: the vocabulary has no word pieces for them, so their meaning is lost.`);
      if (text.dropped) notes.push(`The model reads ${text.limit} word pieces. ${text.dropped} were cut off, after: \u201c\u2026${text.text.slice(Math.max(0, text.read_until - 40), text.read_until)}\u201d`);
      const pieces = element("p", { class: "pieces", "aria-hidden": "true" }, ...text.tokens.map((token) => element("span", { class: token === "[UNK]" ? "piece unknown" : /^\[.*\]$/.test(token) ? "piece special" : "piece" }, token)));
      $("#texts-body").append(
        element("article", {},
          element("h3", {}, this.data.texts.length > 1 ? `Text ${i + 1}` : "The text"),
          element("p", { class: "text", dir: "auto" }, text.text || "(empty)"),
          pieces,
          ...notes.map((note) => element("p", { class: "note" }, note)),
          numbers(`Word pieces of text ${i + 1}`, () => table("Word pieces", ["#", "word piece", "id", "type", "position"], rows)),
        ),
      );
    }
  }

  /** (b) the whole model: each box is a stage. */
  showModel() {
    const body = $("#model-body");
    const layers = this.config.num_hidden_layers;
    const groups = [["Embeddings", ["embeddings"]]];
    for (let i = 0; i < layers; i++) {
      groups.push([`Layer ${i}`, this.data.names.filter((name) => name.startsWith(`encoder.layer.${i}.`)), i]);
    }
    groups.push(["Sentence", ["pooled", "sentence_embedding"]]);
    for (const [title, names, layer] of groups) {
      const boxes = names.map((name) => this.box(name));
      const open = layer === undefined ? null : element("button", { type: "button", class: "open-layer", onclick: () => this.goToLayer(layer) }, `Look inside layer ${layer}`);
      body.append(element("section", { class: "group", "aria-label": title }, element("h3", {}, title), element("div", { class: "boxes" }, ...boxes), open));
    }
    if (this.data.dropped.length) {
      $("#dropped").append(element("p", { class: "note" }, `These kinds of stages are not stored, to keep the page small: ${this.data.dropped.join(", ")}.`));
    }
  }

  box(name) {
    const label = name.replace(/^encoder\.layer\.\d+\./, "");
    if (!this.stages.has(name)) return element("div", { class: "box missing" }, element("strong", {}, label), element("span", {}, "not stored"));
    const values = this.data.texts.map((_, i) => this.stages.value(name, i));
    const all = this.stages.all(name);
    const mean = sum(Array.from(all)) / all.length;
    const deviation = Math.sqrt(sum(Array.from(all, (x) => (x - mean) ** 2)) / all.length);
    const [low, high] = d3.extent(all);
    const pictures = values.map(({ shape, data }) => {
      const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape.length === 3 ? [shape[0], shape[1] * shape[2]] : shape;
      return thumbnail(data, rows, columns, 96, 28);
    });
    return element("button", { type: "button", class: "box", onclick: () => this.openStage(name) },
      element("strong", {}, ...label.split(".").flatMap((part, i) => (i ? [".", element("wbr"), part] : [part]))),
      element("span", { class: "shape" }, values.map(({ shape }) => shape.join("\u00d7")).join(" and ")),
      ...pictures,
      element("span", { class: "statistics" }, `${low.toPrecision(3)} to ${high.toPrecision(3)}, mean ${mean.toPrecision(2)}, deviation ${deviation.toPrecision(2)}`),
    );
  }

  /** One stage, large. */
  openStage(name) {
    const body = $("#stage-body");
    body.replaceChildren(element("h3", { tabindex: "-1" }, name));
    this.data.texts.forEach((_, text) => body.append(...this.stageMaps(name, text)));
    $("#stage").hidden = false;
    go("#stage-body h3");
  }

  stageMaps(name, text) {
    const { shape, data } = this.stages.value(name, text);
    const title = `${name} of text ${text + 1}`;
    const token = (t) => this.tokenName(text, t);
    if (shape.length === 3) {
      const [heads, S] = shape;
      const maps = [];
      for (let h = 0; h < heads; h++) maps.push(this.headMap(name, text, h));
      return [element("h4", {}, `Text ${text + 1}: ${heads} heads, ${S} \u00d7 ${S} each; a row is a query, a column a key`), element("div", { class: "heads" }, ...maps)];
    }
    const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape;
    const map = heatMap({
      label: title, values: data, rows, columns,
      rowNames: (r) => (shape.length === 1 ? name : token(r)),
      columnNames: (c) => `column ${c}`,
      pick: (r, c) => this.openCell(name, text, shape.length === 1 ? [c] : [r, c]),
    });
    const make = () => table(title, ["", ...d3.range(columns).map(String)], d3.range(rows).map((r) => [shape.length === 1 ? name : token(r), ...Array.from(data.subarray(r * columns, (r + 1) * columns), short)]));
    return [map, numbers(title, make)];
  }

  headMap(name, text, head) {
    const { shape, data } = this.probs(name, text);
    const S = shape[1];
    const token = (t) => this.tokenName(text, t);
    const values = data.subarray(head * S * S, (head + 1) * S * S);
    const size = Math.max(1, Math.min(14, Math.floor(170 / S)));
    const label = `Head ${head}, text ${text + 1}`;
    const map = heatMap({
      label, values, rows: S, columns: S, cell: [size, size], largest: 1, named: true,
      rowNames: (r) => this.data.texts[text].tokens[r], columnNames: (c) => this.data.texts[text].tokens[c],
      pick: (r, c) => this.openCell(name, text, [head, r, c]),
    });
    map.append(numbers(label, () => table(label, ["query", ...d3.range(S).map(token)], d3.range(S).map((r) => [token(r), ...Array.from(values.subarray(r * S, (r + 1) * S), short)]))));
    return map;
  }

  /** attention_probs as {shape, data}: stored, or recomputed from query and key; null if neither is there. */
  probs(name, text) {
    if (this.stages.has(name)) return this.stages.value(name, text);
    const prefix = name.replace("attention_probs", "");
    const query = this.stages.value(`${prefix}query`, text);
    const key = this.stages.value(`${prefix}key`, text);
    if (!query || !key) return null;
    const [S, H] = query.shape;
    const { heads, D } = this.stages;
    const data = new Float32Array(heads * S * S);
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < S; i++) {
        const q = query.data.subarray(i * H + h * D, i * H + (h + 1) * D);
        const scores = d3.range(S).map((j) => dot(q, key.data.subarray(j * H + h * D, j * H + (h + 1) * D)) / Math.sqrt(D));
        data.set(softmax(scores).probs, (h * S + i) * S);
      }
    }
    return { shape: [heads, S, S], data };
  }

  goToLayer(layer) {
    this.showLayer(layer);
    go("#layer h2");
  }

  /** (c) inside one layer. */
  showLayer(layer) {
    this.layer = layer;
    const prefix = `encoder.layer.${layer}`;
    const buttons = d3.range(this.config.num_hidden_layers).map((i) =>
      element("button", { type: "button", "aria-pressed": String(i === layer), onclick: () => {
        this.showLayer(i);
        $(`#layer-choice button:nth-of-type(${i + 1})`).focus();
      } }, `Layer ${i}`));
    $("#layer-choice").replaceChildren(...buttons);
    const body = $("#layer-body");
    body.replaceChildren();
    const name = `${prefix}.attention.self.attention_probs`;
    const stored = this.stages.has(name) ? "" : " (recomputed from query and key)";
    if (this.probs(name, 0)) {
      body.append(element("h3", {}, `Attention: ${this.stages.heads} heads${stored}`), element("p", {}, "A row is a query and adds up to 1; a column is a key."));
      const rows = d3.range(this.stages.heads).map((head) => element("div", { class: "pair" }, ...this.data.texts.map((_, text) => this.headMap(name, text, head))));
      body.append(element("div", { class: "heads" }, ...rows));
    } else body.append(element("p", { class: "note" }, "The attention of this layer is not stored."));
    const before = layer ? `encoder.layer.${layer - 1}.output` : "embeddings";
    const outputs = [before, `${prefix}.attention.output`, `${prefix}.output`].filter((one) => this.stages.has(one));
    body.append(element("h3", {}, "The residual stream"), element("p", {}, "The length of each token's vector: before the layer, after attention, after the feed-forward network. LayerNorm follows each sum, so the lengths stay of one order."));
    const charts = (...found) => element("div", { class: "charts" }, ...found);
    const lengths = this.data.texts.map(({ tokens }, text) => {
      const series = outputs.map((one) => ({ name: one, values: tokens.map((_, t) => Math.sqrt(dot(this.stages.token(one, text, t), this.stages.token(one, text, t)))) }));
      return lineChart(`Length of the hidden states, text ${text + 1}`, tokens, series);
    });
    body.append(charts(...lengths));
    body.append(element("h3", {}, "LayerNorm"));
    for (const one of [`${prefix}.attention.output`, `${prefix}.output`]) body.append(charts(...this.normCharts(one)));
    body.append(element("h3", {}, "GELU"));
    const inner = `${prefix}.intermediate`;
    if (this.stages.has(inner)) {
      body.append(charts(histogram(`Inputs of GELU, layer ${layer}`, this.stages.inputs(inner)), histogram(`Outputs of GELU, layer ${layer}`, this.stages.all(inner))));
    } else body.append(element("p", { class: "note" }, "The inputs of GELU are not stored."));
    const stages = this.data.names.filter((one) => one.startsWith(`${prefix}.`) && this.stages.has(one));
    body.append(element("h3", {}, "Stages of this layer"), element("p", { class: "links" }, ...stages.map((one) => element("button", { type: "button", onclick: () => this.openStage(one) }, one.replace(`${prefix}.`, "")))));
  }

  normCharts(name) {
    return this.data.texts.flatMap(({ tokens }, text) => {
      const input = this.stages.input(name, text);
      if (!input) return [element("p", { class: "note" }, `The input of ${name}.LayerNorm is not stored.`)];
      const H = this.stages.H;
      const [weight, bias] = this.stages.norm(name);
      const rows = tokens.map((_, t) => layerNorm(input.subarray(t * H, (t + 1) * H), weight, bias, this.config.layer_norm_eps));
      return [lineChart(`${name}.LayerNorm, text ${text + 1}: mean and standard deviation of its input`, tokens, [
        { name: "mean", values: rows.map((row) => row.mean) },
        { name: "standard deviation", values: rows.map((row) => Math.sqrt(row.variance)) },
      ])];
    });
  }

  // --- (d) one cell ----------------------------------------------------------------------------

  openCell(name, text, index, move = true) {
    const cell = this.cell(name, text, index);
    const place = `${name}[${index.join(", ")}]${this.data.texts.length > 1 && text !== null ? ` of text ${text + 1}` : ""}`;
    const body = $("#cell-body");
    body.replaceChildren(element("h3", { tabindex: "-1" }, place));
    if (cell.note) body.append(element("p", {}, cell.note));
    if (cell.formula) body.append(formula(cell.formula));
    for (const part of cell.parts) body.append(scroller(part.caption, table(part.caption, part.columns, part.rows)));
    const rows = [];
    if (cell.value !== null) rows.push(["recomputed here, in float64", exact(cell.value)]);
    if (cell.stored !== null) rows.push(["the model's value, float32", exact(cell.stored)]);
    if (rows.length === 2) rows.push(["difference", short(cell.value - cell.stored)]);
    body.append(table("Result", ["", "value"], rows));
    for (const [label, open] of cell.links ?? []) body.append(element("p", {}, element("button", { type: "button", onclick: open }, label)));
    body.append(element("h4", {}, "The code that computes it"));
    for (const key of cell.code) {
      const template = document.getElementById(`source-${key}`);
      if (template) body.append(template.content.cloneNode(true));
    }
    if (move) go("#cell-body h3");
  }

  /** Return {value, stored, formula, parts, code}: the arithmetic of one element. */
  cell(name, text, index) {
    const kind = name.replace(/^encoder\.layer\.\d+\./, "");
    const layer = Number((name.match(/^encoder\.layer\.(\d+)\./) ?? [])[1]);
    const prefix = `encoder.layer.${layer}`;
    const stored = this.stored(name, text, index);
    const result = { stored, parts: [], code: [], value: null }; // null: the page cannot recompute it
    const before = layer > 0 ? `encoder.layer.${layer - 1}.output` : "embeddings";
    if (name === "cosine") return this.cosineCell(result);
    if (kind === "embeddings") return this.embeddingCell(result, text, index);
    if (/self\.(query|key|value)$/.test(kind)) {
      this.addDense(result, name, before, text, index, true);
      result.formula = "dense";
      result.code = ["linear", "self_attention"];
      return result;
    }
    if (kind.endsWith("attention_probs")) return this.attentionCell(result, name, text, index);
    if (kind.endsWith("context")) return this.contextCell(result, name, text, index);
    if (kind === "intermediate") return this.geluCell(result, name, prefix, text, index);
    if (kind.endsWith("output")) return this.normCell(result, name, kind, prefix, before, text, index);
    if (name === "pooled") return this.pooledCell(result, text, index[0]);
    return this.normalizedCell(result, text, index[0]);
  }

  stored(name, text, index) {
    if (name === "cosine" || !this.stages.has(name)) return null;
    const { shape, data } = this.stages.value(name, text);
    return data[index.reduce((at, i, k) => at * shape[k] + i, 0)];
  }

  embeddingCell(result, text, [t, j]) {
    const { ids, types, positions } = this.data.texts[text];
    const rows = [["word", ids[t]], ["token_type", types[t]], ["position", positions[t]]];
    const terms = rows.map(([table_, id]) => [`${table_}_embeddings.weight[${id}, ${j}]`, exact(this.stages.row(table_, id)[j])]);
    result.parts.push({ caption: "Three looked-up numbers are added", columns: ["", "value"], rows: terms });
    const input = rows.map(([table_, id]) => this.stages.row(table_, id)).reduce((a, b) => Float32Array.from(a, (x, k) => Math.fround(x + b[k])), new Float32Array(this.stages.H));
    this.addNorm(result, "embeddings", input, j);
    result.code = ["embed", "layer_norm", "embeddings"];
    return result;
  }

  addNorm(result, name, input, j) {
    const [weight, bias] = this.stages.norm(name);
    const { mean, variance, normalized, values } = layerNorm(input, weight, bias, this.config.layer_norm_eps);
    result.formula = "layer_norm";
    result.value = values[j];
    result.parts.push({ caption: "LayerNorm", columns: ["", "value"], rows: [
      ["x, the sum", exact(input[j])],
      [`mean of the ${input.length} numbers of this token`, exact(mean)],
      ["variance", exact(variance)],
      ["eps", exact(this.config.layer_norm_eps)],
      ["(x \u2212 mean) / \u221a(variance + eps)", exact(normalized[j])],
      [`weight[${j}]`, exact(weight[j])],
      [`bias[${j}]`, exact(bias[j])],
      ["normalized \u00d7 weight + bias", exact(values[j])],
    ] });
  }

  /** Add the terms of a dense layer's output, if the page has its weights. */
  addDense(result, module, inputName, text, [t, j], isResult) {
    const cell = this.data.cells[module];
    const input = this.stages.has(inputName) ? this.stages.token(inputName, text, t) : null;
    if (!cell || !input) {
      result.parts.push({ caption: `${module}: its input is not stored`, columns: ["", "value"], rows: [] });
      return;
    }
    if (cell.column !== j) {
      result.note = `${module}.weight has ${input.length} numbers for this output. The page has those of output ${cell.column} only.`;
      const target = isResult ? module : module.replace(".dense", "");
      result.links = [[`Show output ${cell.column} with all its terms`, () => this.openCell(target, text, [t, cell.column])]];
      return;
    }
    const weight = this.stages.blocks.floats(cell.weight);
    const products = Array.from(input, (x, k) => x * weight[k]);
    const total = sum(products) + cell.bias;
    const order = d3.range(products.length).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
    result.parts.push({
      caption: `${module}: all ${products.length} terms, the largest first`,
      columns: ["k", "input[k]", `weight[${j}, k]`, "product"],
      rows: order.map((k) => [k, exact(input[k]), exact(weight[k]), short(products[k])]),
    });
    result.parts.push({ caption: "Sum", columns: ["", "value"], rows: [["sum of the products", exact(sum(products))], [`bias[${j}]`, exact(cell.bias)], ["together", exact(total)]] });
    result.dense = total;
    if (isResult) result.value = total;
  }

  attentionCell(result, name, text, [head, i, j]) {
    const prefix = name.replace("attention_probs", "");
    const D = this.stages.D;
    const part = (kind, t) => this.stages.token(`${prefix}${kind}`, text, t);
    if (!this.stages.has(`${prefix}query`) || !this.stages.has(`${prefix}key`)) {
      result.note = "Query and key are not stored.";
      return result;
    }
    const q = part("query", i).subarray(head * D, (head + 1) * D);
    const { tokens } = this.data.texts[text];
    const keys = tokens.map((_, t) => part("key", t).subarray(head * D, (head + 1) * D));
    const scores = keys.map((k) => dot(q, k) / Math.sqrt(D));
    const { largest, exponentials, sum: total, probs } = softmax(scores);
    result.formula = "attention";
    result.value = probs[j];
    result.parts.push({
      caption: `Score of query ${this.tokenName(text, i)} and key ${this.tokenName(text, j)}, head ${head}: columns ${head * D} to ${(head + 1) * D - 1}`,
      columns: ["d", "q[d]", "k[d]", "product"],
      rows: [...Array.from(q, (x, d) => [d, exact(x), exact(keys[j][d]), short(x * keys[j][d])]), ["sum", "", "", exact(dot(q, keys[j]))], [`/ \u221a${D}`, "", "", exact(scores[j])]],
    });
    result.parts.push({
      caption: `Softmax over the row: the largest score is ${short(largest)}`,
      columns: ["key", "score", "exp(score \u2212 largest)", "probability"],
      rows: [...tokens.map((_, t) => [this.tokenName(text, t), short(scores[t]), short(exponentials[t]), short(probs[t])]), ["sum", "", exact(total), exact(sum(probs))]],
    });
    result.code = ["attention_scores", "softmax", "attention_weights", "self_attention"];
    return result;
  }

  contextCell(result, name, text, [t, j]) {
    const prefix = name.replace("context", "");
    const head = Math.floor(j / this.stages.D);
    const probs = this.probs(`${prefix}attention_probs`, text);
    const { tokens } = this.data.texts[text];
    const S = tokens.length;
    result.code = ["attention", "self_attention"];
    if (!probs || !this.stages.has(`${prefix}value`)) {
      result.note = "Probabilities or values are not stored.";
      return result;
    }
    const rows = tokens.map((_, s) => [this.tokenName(text, s), probs.data[(head * S + t) * S + s], this.stages.token(`${prefix}value`, text, s)[j]]);
    result.formula = "context";
    result.value = sum(rows.map(([, p, v]) => p * v));
    result.parts.push({ caption: `Head ${head}: values weighted by probabilities`, columns: ["key", "probability", `value[${j}]`, "product"], rows: [...rows.map(([token, p, v]) => [token, short(p), short(v), short(p * v)]), ["sum", "", "", exact(result.value)]] });
    return result;
  }

  geluCell(result, name, prefix, text, [t, j]) {
    const width = this.config.intermediate_size;
    const x = this.stages.input(name, text)[t * width + j];
    const tail = normalTail(x, this.data.tail_coefficients, this.data.tail_scale);
    this.addDense(result, `${name}.dense`, `${prefix}.attention.output`, text, [t, j], false);
    result.code = [this.config.hidden_act, "linear", "feed_forward"];
    if (this.config.hidden_act !== "gelu") {
      result.parts.push({ caption: this.config.hidden_act, columns: ["", "value"], rows: [["x", exact(x)]] });
      return result;
    }
    result.formula = "gelu";
    result.value = this.stages.gelu(x);
    result.parts.push({ caption: "GELU", columns: ["", "value"], rows: [["x", exact(x)], ["\u03a6(x), the share of a normal distribution below x", exact(x > 0 ? 1 - tail : tail)], ["x \u03a6(x)", exact(result.value)]] });
    return result;
  }

  normCell(result, name, kind, prefix, before, text, [t, j]) {
    const isAttention = kind === "attention.output";
    const [denseInput, residual] = isAttention ? [`${prefix}.attention.self.context`, before] : [`${prefix}.intermediate`, `${prefix}.attention.output`];
    result.code = ["add_layer_norm", "layer_norm", isAttention ? "self_attention" : "feed_forward"];
    const input = this.stages.input(name, text);
    if (!input) {
      result.note = "The input of this LayerNorm is not stored.";
      return result;
    }
    const row = input.subarray(t * this.stages.H, (t + 1) * this.stages.H);
    this.addDense(result, `${name}.dense`, denseInput, text, [t, j], false);
    if (this.stages.has(residual)) {
      const kept = this.stages.token(residual, text, t)[j];
      result.parts.push({ caption: "Residual connection", columns: ["", "value"], rows: [["output of the dense layer: the sum minus the residual", short(row[j] - kept)], [`residual: ${residual}[${t}, ${j}]`, exact(kept)], ["sum", exact(row[j])]] });
    }
    this.addNorm(result, name, row, j);
    return result;
  }

  pooledCell(result, text, j) {
    const rows = this.stages.weighted(text);
    result.value = sum(rows.map((row) => row[j]));
    result.formula = this.config.pooling_mode === "mean" ? "mean" : null;
    const { tokens } = this.data.texts[text];
    result.parts.push({ caption: `Column ${j} of the last layer, pooled by ${this.config.pooling_mode}`, columns: ["token", "hidden state", "what it adds"], rows: [...tokens.map((_, t) => [this.tokenName(text, t), exact(this.stages.token(this.stages.last, text, t)[j]), short(rows[t][j])]), ["sum", "", exact(result.value)]] });
    result.code = ["pool", "sentence_embeddings"];
    return result;
  }

  normalizedCell(result, text, j) {
    const pooled = this.stages.value("pooled", text).data;
    if (!this.config.normalize) {
      result.value = pooled[j];
      result.note = "This model does not scale its vectors: the sentence embedding is the pooled vector.";
      result.code = ["sentence_embeddings"];
      return result;
    }
    const length = Math.max(Math.sqrt(dot(pooled, pooled)), 1e-12);
    result.value = pooled[j] / length;
    result.formula = "normalize";
    result.parts.push({ caption: "Scaled to length 1", columns: ["", "value"], rows: [[`pooled[${j}]`, exact(pooled[j])], ["length of pooled: the root of the sum of squares", exact(length)], ["quotient", exact(result.value)]] });
    result.code = ["l2_normalize", "sentence_embeddings"];
    return result;
  }

  cosineCell(result) {
    const [u, v] = [0, 1].map((text) => this.stages.value("sentence_embedding", text).data);
    const lengths = [u, v].map((x) => Math.max(Math.sqrt(dot(x, x)), 1e-12));
    const products = Array.from(u, (x, d) => x * v[d]);
    result.value = dot(u, v) / (lengths[0] * lengths[1]);
    const order = d3.range(u.length).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
    result.formula = "cosine";
    result.parts.push({ caption: "The dot product of the two sentence embeddings, the largest terms first", columns: ["d", "u[d]", "v[d]", "product"], rows: order.map((d) => [d, exact(u[d]), exact(v[d]), short(products[d])]) });
    result.parts.push({ caption: "Together", columns: ["", "value"], rows: [["dot product", exact(dot(u, v))], ["length of u", exact(lengths[0])], ["length of v", exact(lengths[1])]] });
    result.code = ["cos_sim"];
    return result;
  }

  // --- similarity ------------------------------------------------------------------------------

  showSimilarity() {
    if (this.data.texts.length < 2) {
      $("#similarity-body").append(element("p", {}, "This page has one text. Give two to see where their similarity comes from."));
      return;
    }
    const names = Object.keys(this.data.cosines);
    $("#similarity-body").append(
      element("p", {}, "Cosine similarity: ", element("strong", {}, this.stages.cosine().toFixed(6)), " ", element("button", { type: "button", onclick: () => this.openCell("cosine", null, []) }, "Show the dot product")),
      lineChart("Cosine of the two texts after each layer, if the model ended there", names.map((name) => name.replace("encoder.", "").replace(".output", "")), [{ name: "cosine", values: names.map((name) => this.data.cosines[name]) }]),
    );
    this.folded = false;
    this.words = false;
    const toggle = (label, key) => element("label", {}, element("input", { type: "checkbox", onchange: (event) => {
      this[key] = event.target.checked;
      this.showPairs();
    } }), ` ${label}`);
    $("#pair-options").append(toggle("fold [CLS] and [SEP] away", "folded"), toggle("merge word pieces into words", "words"));
    this.showPairs();
    for (const [method, { values, baseline_cosine, completeness_error }] of Object.entries(this.data.attributions)) {
      const title = method.replaceAll("_", " ").replace(" x ", " \u00d7 ");
      $("#attributions-body").append(element("div", { class: "charts" }, ...values.map((part, text) => barChart(`${title}, text ${text + 1}`, this.data.texts[text].tokens, part))));
      if (completeness_error !== null) $("#attributions-body").append(element("p", {}, `The bars of both texts add up to the difference of two cosines: ${this.stages.cosine().toFixed(4)} of the texts minus ${baseline_cosine.toFixed(4)} of the baselines. The error of the sum is ${completeness_error.toExponential(1)}.`));
    }
  }

  /** Group tokens: [[name, numbers]]; as TokenPairs.words and fold_special_tokens. */
  groups(tokens) {
    const isSpecial = (token) => ["[CLS]", "[SEP]", "[PAD]"].includes(token);
    let groups = tokens.map((token, i) => [token, [i]]);
    if (this.words) {
      groups = groups.reduce((done, [token, numbers_]) => {
        const previous = done[done.length - 1];
        if (token.startsWith("##") && token.length > 2 && previous && !isSpecial(previous[0])) {
          done[done.length - 1] = [previous[0] + token.slice(2), [...previous[1], ...numbers_]];
        } else done.push([token, numbers_]);
        return done;
      }, []);
    }
    if (this.folded) {
      const special = groups.filter(([token]) => isSpecial(token));
      groups = [...groups.filter(([token]) => !isSpecial(token)), ["[CLS] [SEP]", special.flatMap(([, numbers_]) => numbers_)]];
    }
    return groups;
  }

  showPairs() {
    const pairs = this.stages.tokenPairs();
    const [rows, columns] = [this.groups(pairs.rows), this.groups(pairs.columns)];
    const values = rows.map(([, i]) => columns.map(([, j]) => sum(i.flatMap((r) => j.map((c) => pairs.values[r][c])))));
    const rowSums = values.map(sum);
    const columnSums = columns.map((_, j) => sum(values.map((row) => row[j])));
    const [rowNames, columnNames] = [rows, columns].map((groups) => groups.map(([name]) => name));
    const size = Math.max(2, Math.min(30, Math.floor(640 / Math.max(rows.length, columns.length))));
    const map = heatMap({
      label: "What each pair of tokens adds to the cosine; rows: text 1, columns: text 2", values: values.flat(), rows: rows.length, columns: columns.length, cell: [size, size], named: true, largest: d3.max(values.flat(), Math.abs),
      rowNames: (r) => rowNames[r], columnNames: (c) => columnNames[c], pick: (r, c) => this.openPair(rows[r], columns[c], values[r][c]),
    });
    const make = () => table("Token pairs", ["", ...columnNames, "sum"], [...values.map((row, r) => [rowNames[r], ...row.map(short), short(rowSums[r])]), ["sum", ...columnSums.map(short), short(sum(rowSums))]]);
    const largest = values.flatMap((row, r) => row.map((value, c) => [value, rowNames[r], columnNames[c]])).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const sentence = `The largest share comes from ${largest.map(([value, a, b]) => `\u201c${a}\u201d with \u201c${b}\u201d (${value.toFixed(4)})`).join(", then ")}.`;
    $("#pairs-body").replaceChildren(map, numbers("Token pairs", make), element("p", {}, sentence),
      element("div", { class: "charts" }, barChart("What each token of text 1 adds", rowNames, rowSums), barChart("What each token of text 2 adds", columnNames, columnSums)));
  }

  openPair([rowName, i], [columnName, j], value) {
    const [a, b] = [this.stages.weighted(0), this.stages.weighted(1)];
    const lengths = [a, b].map((rows) => {
      const pooled = rows.reduce((total, row) => total.map((x, k) => x + row[k]));
      return Math.max(Math.sqrt(dot(pooled, pooled)), 1e-12);
    });
    const products = i.flatMap((r) => j.map((c) => [`${this.tokenName(0, r)}, ${this.tokenName(1, c)}`, dot(a[r], b[c])]));
    const body = $("#cell-body");
    body.replaceChildren(element("h3", { tabindex: "-1" }, `\u201c${rowName}\u201d with \u201c${columnName}\u201d`), formula("pair"),
      scroller("Pairs", table("Dot products of what the tokens add to the pooled vectors", ["pair", "dot product"], products.map(([name, x]) => [name, exact(x)]))),
      table("Result", ["", "value"], [["sum of the dot products", exact(sum(products.map(([, x]) => x)))], ["length of the pooled vector of text 1", exact(lengths[0])], ["of text 2", exact(lengths[1])], ["sum / (length 1 \u00d7 length 2)", exact(value)]]));
    go("#cell-body h3");
  }

  // --- ablation --------------------------------------------------------------------------------

  showAblation() {
    const body = $("#ablation-body");
    const found = this.data.ablation;
    if (!found) {
      body.append(element("p", {}, this.data.texts.length < 2 ? "This page has one text. Give two to see what switching parts of the model off does to their similarity." : "The texts are too long for this section: together at most 100 word pieces."));
      return;
    }
    const { parts, whole } = found;
    const [layers, heads] = [this.config.num_hidden_layers, this.config.num_attention_heads];
    const change = (part) => part.cosine - whole.cosine;
    const byHead = Float64Array.from(parts.slice(0, layers * heads), change);
    const map = heatMap({
      label: "By how much the cosine changes when one head is switched off; rows: layers, columns: heads", values: byHead, rows: layers, columns: heads, cell: [36, 24], named: true,
      rowNames: (r) => `layer ${r}`, columnNames: (c) => `head ${c}`, pick: (r, c) => this.openAblation(parts[r * heads + c]),
    });
    const heading = (c) => `head ${c}`;
    const make = () => table("Change of the cosine", ["", ...d3.range(heads).map(heading)], d3.range(layers).map((r) => [`layer ${r}`, ...d3.range(heads).map((c) => short(byHead[r * heads + c]))]));
    const choice = element("select", { id: "ablation-part", onchange: (event) => this.openAblation(parts[event.target.value], false) }, ...parts.map((part, i) => element("option", { value: String(i) }, `${part.name}: ${change(part) < 0 ? "" : "+"}${change(part).toFixed(4)}`)));
    body.append(
      element("p", {}, "A head that is switched off gives zeros; a layer passes its input through; a LayerNorm passes the sum on as it is; a token is neither attended to nor pooled."),
      map, numbers("Heads", make),
      element("p", {}, element("label", { for: "ablation-part" }, "Switch off: "), choice),
      element("div", { id: "ablation-result" }),
    );
    this.openAblation(parts[layers * heads], false);
  }

  openAblation(part, move = true) {
    const { parts, whole, others } = this.data.ablation;
    $("#ablation-part").value = String(parts.indexOf(part));
    const names = [this.data.texts[0].text, this.data.texts[1].text, ...others];
    const order = (one) => one.ranking.map(([i]) => i);
    const rows = whole.ranking.map((_, place) => [place + 1, ...[whole, part].flatMap((one) => [names[one.ranking[place][0]], one.ranking[place][1].toFixed(4)])]);
    const isSame = order(whole).join() === order(part).join();
    const [rowTokens, columnTokens] = this.data.texts.map(({ tokens }) => tokens);
    const size = Math.max(2, Math.min(22, Math.floor(420 / Math.max(rowTokens.length, columnTokens.length))));
    const matrices = !part.pairs ? [] : [["The pair matrix of the whole model", whole], [`Without ${part.name}`, part]].map(([label, one]) => [label, this.stages.blocks.floats(one.pairs)]);
    const largest = matrices.length ? scaleOf(matrices[0][1]) : 0;
    const maps = matrices.map(([label, values]) => {
      const map = heatMap({
        label, values, rows: rowTokens.length, columns: columnTokens.length, cell: [size, size], named: true, largest,
        rowNames: (r) => rowTokens[r], columnNames: (c) => columnTokens[c],
      });
      const make = () => table(label, ["", ...columnTokens], rowTokens.map((name, r) => [name, ...Array.from(values.subarray(r * columnTokens.length, (r + 1) * columnTokens.length), short)]));
      map.append(numbers(label, make));
      return map;
    });
    $("#ablation-result").replaceChildren(
      element("h3", { tabindex: "-1" }, `Without ${part.name}`),
      element("p", { "aria-live": "polite" }, `The cosine goes from ${whole.cosine.toFixed(6)} to ${part.cosine.toFixed(6)}. The ranking of the other texts ${isSame ? "stays the same" : "changes"}.`),
      element("div", { class: "charts" }, ...maps),
      scroller("Ranking", table("Texts by their similarity to text 1", ["place", "whole model", "cosine", "without the part", "cosine"], rows, { class: "texts" })),
    );
    if (move) go("#ablation-result h3");
  }

  // --- questions -------------------------------------------------------------------------------

  showQuestions() {
    for (const [i, { question, choices, answer, explanation }] of (this.data.questions ?? []).entries()) {
      const reply = element("p", { "aria-live": "polite", class: "reply" });
      const buttons = choices.map((choice, k) => element("label", {}, element("input", { type: "radio", name: `question-${i}`, onchange: () => {
        reply.replaceChildren(k === answer ? "Right. " : "No. ", ...withCode(explanation));
      } }), " ", ...withCode(choice)));
      $("#questions-body").append(element("fieldset", {}, element("legend", {}, `${i + 1}. `, ...withCode(question)), ...buttons, reply));
    }
  }
}

/** Return Markdown's `code` as elements, and the rest as text. */
function withCode(markdown) {
  return markdown.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}

function formula(name) {
  const template = document.getElementById(`formula-${name}`);
  return template ? template.content.cloneNode(true) : "";
}

/** Move to an element and give it the focus. */
function go(selector) {
  const target = $(selector);
  if (!target.hasAttribute("tabindex")) target.setAttribute("tabindex", "-1");
  target.focus({ preventScroll: true });
  target.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
}

/** In a notebook the page is in a frame, where a link to a section would load the notebook instead. */
function stayInPage(event) {
  const link = event.target.closest("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  go(link.getAttribute("href"));
}

async function start() {
  document.addEventListener("click", stayInPage);
  const data = JSON.parse($("#data").textContent);
  const stages = new Stages(data, await unpack($("#packed").textContent.trim()));
  const page = new Page(stages);
  page.show();
  const repaint = () => repaints.filter(([canvas]) => canvas.isConnected).forEach(([, draw]) => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  for (const event of ["beforeprint", "afterprint"]) {
    addEventListener(event, () => {
      isPrinting = event === "beforeprint"; // paper is white
      repaint();
    });
  }
  const textNumber = (text) => (typeof text === "string" ? data.texts.findIndex((one) => one.text === text) : text ?? 0);
  window.minilm = {
    texts: data.texts.map(({ text }) => text),
    tokens: data.texts.map(({ tokens }) => tokens),
    stages: data.names,
    value(stage, text) {
      const value = stages.value(stage, textNumber(text));
      return value && { shape: value.shape, data: Array.from(value.data) };
    },
    /** The output of the dense layer that ends in a stage; null if the page does not have its weights. */
    dense: (stage, text, index) => page.cell(stage, textNumber(text), index).dense ?? null,
    recompute: (stage, text, index) => page.cell(stage, textNumber(text), index).value,
    cosine: stages.cosine(),
    tokenPairs: stages.tokenPairs(),
    readyAfter: performance.now(), // milliseconds
  };
  document.documentElement.dataset.ready = "true";
}

start();

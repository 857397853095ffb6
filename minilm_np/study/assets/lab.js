"use strict";
// The list of mistakes, and what the chosen one does. All numbers come from the JSON in #data.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byName = new Map(data.switches.map((one) => [one.name, one]));
  const list = document.getElementById("switches");
  const rows = Array.from(list.querySelectorAll(".switch"), (label) => ({
    label,
    input: label.querySelector("input"),
    mistake: byName.get(label.querySelector("input").value),
  }));
  const LAYERS = Array.from({ length: data.layers }, (_, i) => i);
  const RUNGS = [
    ["token ids", (stage) => stage === "token_ids"],
    ["embeddings", (stage) => stage === "embeddings"],
    ...LAYERS.map((i) => ["layer " + i, (stage) => stage.startsWith("encoder.layer." + i + ".")]),
    ["pooled", (stage) => stage === "pooled"],
    ["sentence embedding", (stage) => stage === "sentence_embedding"],
  ];

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function fixed(number, digits = 4) {
    return number === null ? "not a number" : number.toFixed(digits);
  }

  function change(mistake) {
    return mistake.cosine === null ? null : mistake.cosine - data.cosine;
  }

  function signed(number) {
    return number === null ? "not a number" : (number < 0 ? "\u2212" : "+") + Math.abs(number).toFixed(6);
  }

  // --- the chosen mistake

  function show(mistake) {
    document.getElementById("name").textContent = mistake.name;
    document.getElementById("says").textContent = mistake.says;
    document.getElementById("summary").textContent =
      "Cosine " + fixed(data.cosine, 6) + " \u2192 " + fixed(mistake.cosine, 6) + " (" + signed(change(mistake)) +
      "). Largest error of an element: " + mistake.error + ".";
    showCode(mistake.code);
    showBars(mistake);
    showLadder(mistake.stage);
    showRanking(mistake.ranking);
  }

  function showCode(code) {
    document.getElementById("file").textContent = code.file
      ? code.file
      : "Code of a port: this package has no such line.";
    let start = 0;
    const shortest = Math.min(code.right.length, code.wrong.length);
    while (start < shortest && code.right[start] === code.wrong[start]) start++;
    let end = 0;
    while (end < shortest - start && code.right.at(-1 - end) === code.wrong.at(-1 - end)) end++;
    for (const side of ["right", "wrong"]) {
      const line = code[side];
      const parts = [line.slice(0, start), line.slice(start, line.length - end), line.slice(line.length - end)];
      const target = document.getElementById(side);
      target.replaceChildren(parts[0]);
      if (parts[1]) target.append(element("mark", "", parts[1]));
      target.append(parts[2]);
    }
  }

  function showBars(mistake) {
    const target = document.getElementById("bars");
    target.replaceChildren();
    for (const [label, cosine, className] of [
      ["right", data.cosine, "fill"],
      ["with the mistake", mistake.cosine, "fill with"],
    ]) {
      const bar = element("div", "bar");
      bar.setAttribute("role", "img");
      bar.setAttribute("aria-label", label + ": cosine " + fixed(cosine) + " on a scale from \u22121 to 1");
      const fill = element("div", className);
      const size = Math.min(1, Math.abs(cosine || 0)) * 50;
      fill.style.left = (cosine < 0 ? 50 - size : 50) + "%";
      fill.style.width = size + "%";
      bar.append(fill, element("div", "zero"));
      target.append(element("span", "", label), bar, element("span", "number", fixed(cosine)));
    }
  }

  function showLadder(stage) {
    const text = stage === null ? "No stage of these texts is out of tolerance." : stage;
    document.getElementById("stage").textContent = text;
    const first = stage === null ? RUNGS.length : RUNGS.findIndex(([, has]) => has(stage));
    const rungs = RUNGS.map(([name], i) => {
      const item = element("li", i < first ? "" : i === first ? "first" : "after");
      const state = i < first ? "right" : i === first ? "first wrong stage" : "after it";
      item.append(element("span", "rung", name), element("span", "state", state));
      return item;
    });
    document.getElementById("ladder").replaceChildren(...rungs);
  }

  function showRanking(ranking) {
    const before = new Map(data.ranking.map(([text], rank) => [text, rank]));
    const lines = data.ranking.map((right, rank) => {
      const made = ranking[rank];
      const line = element("tr");
      const head = element("th", "", String(rank + 1));
      head.scope = "row";
      const was = before.get(made[0]);
      const moved = was === rank ? "" : (was > rank ? " \u2191" : " \u2193") + " was " + (was + 1);
      line.append(head, cell(right, ""), cell(made, moved));
      return line;
    });
    document.querySelector("#ranking tbody").replaceChildren(...lines);
  }

  function cell([text, cosine], moved) {
    const made = element("td", moved ? "moved" : "");
    const shown = element("bdi", "", data.texts[text]);
    made.append(element("span", "number", fixed(cosine)), " ", text + 1 + " ", shown, moved);
    return made;
  }

  // --- the list

  const ORDERS = {
    change: (a, b) => size(b) - size(a),
    small: (a, b) => size(a) - size(b),
    error: (a, b) => Number(b.error.replace("inf", "Infinity")) - Number(a.error.replace("inf", "Infinity")),
    catalogue: (a, b) => data.switches.indexOf(a) - data.switches.indexOf(b),
  };

  function size(mistake) {
    const by = change(mistake);
    return by === null ? Number.MAX_VALUE : Math.abs(by);
  }

  function arrange() {
    const order = ORDERS[document.getElementById("order").value];
    rows.sort((a, b) => order(a.mistake, b.mistake) || ORDERS.catalogue(a.mistake, b.mistake));
    list.append(...rows.map((row) => row.label));
    choose(list.querySelector("input:checked").value);
  }

  function filter() {
    const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = (row.mistake.name + " " + row.mistake.says + " " + (row.mistake.stage || "none")).toLowerCase();
      row.label.hidden = !words.every((word) => text.includes(word));
      if (!row.label.hidden) shown++;
    }
    document.getElementById("count").textContent = shown + " of " + rows.length + " mistakes";
  }

  function choose(name) {
    const row = rows.find((one) => one.mistake.name === name);
    if (!row) return;
    row.input.checked = true;
    const below = row.label.offsetTop + row.label.offsetHeight - list.offsetTop - list.clientHeight;
    const above = row.label.offsetTop - list.offsetTop;
    list.scrollTop = Math.min(Math.max(list.scrollTop, below), above); // the page itself does not move
    show(row.mistake);
  }

  function fromAddress() {
    choose(decodeURIComponent(location.hash.slice(1)));
  }

  list.addEventListener("change", (event) => {
    choose(event.target.value);
    history.replaceState(null, "", "#" + encodeURIComponent(event.target.value)); // a link to this mistake
  });
  document.getElementById("filter").addEventListener("input", filter);
  document.getElementById("order").addEventListener("change", arrange);
  window.addEventListener("hashchange", fromAddress);
  rows[0].input.checked = true; // also where the browser restores an earlier choice
  filter();
  arrange();
  fromAddress();
})();

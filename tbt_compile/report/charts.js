// Histograms of weights and codes, bars of benchmarks, and texts side by side.

function columns(heights, label) {
  const top = Math.max(1e-12, ...heights);
  const width = 100 / heights.length;
  const bars = heights.map((height, index) => drawing("rect", {
    x: index * width, width: width * 0.9, y: 50 * (1 - height / top), height: 50 * (height / top),
  }));
  return drawing("svg", { viewBox: "0 0 100 50", preserveAspectRatio: "none", role: "img", "aria-label": label }, ...bars);
}

function shareText(codes) {
  if (codes.levels.length > 4) return `${codes.levels.length} codes from ${codes.levels[0]} to ${codes.levels[codes.levels.length - 1]}`;
  return codes.levels.map((level, index) => `${level}: ${(100 * codes.shares[index]).toFixed(1)}%`).join(", ");
}

// Codes of one or two bits have a column per level of the encoding, or per code where a method has others (TWN has no
// codes for non-negative values); those of 8 bits are put into 32.
const LEVELS = { binary: [-1, 1], ternary: [-1, 0, 1], binary01: [0, 1], ternary012: [0, 1, 2] };

function codeColumns(codes) {
  const usual = LEVELS[codes.encoding];
  const levels = usual && !codes.levels.every((level) => usual.includes(level)) ? codes.levels : usual;
  const low = codes.encoding === "uint8" ? 0 : -127;
  const high = codes.encoding === "uint8" ? 255 : 127;
  const heights = new Array(levels ? levels.length : 32).fill(0);
  codes.levels.forEach((level, index) => {
    const at = levels ? levels.indexOf(level) : Math.min(31, Math.floor((32 * (level - low)) / (high - low)));
    heights[at] += codes.shares[index];
  });
  return heights;
}

function codesFigure(codes) {
  const text = `${codes.operand} ${codes.encoding}: ${shareText(codes)}; entropy ${codes.entropy.toFixed(3)} bits`;
  return element("figure", {}, columns(codeColumns(codes), text), element("figcaption", {}, text));
}

function valuesFigure(values) {
  const text = `weight in full precision, from ${values.low.toPrecision(3)} to ${values.high.toPrecision(3)}`;
  return element("figure", {}, columns(values.counts, text), element("figcaption", {}, text));
}

function showCodes(histograms) {
  if (missing("codes", histograms)) return;
  const cards = histograms.layers.map((layer) => {
    const card = element("article", { class: "card" }, element("h3", {}, layer.name || "(model)"));
    whenSeen(card, () => {
      if (layer.values) card.append(valuesFigure(layer.values));
      if (layer.weight) card.append(codesFigure(layer.weight));
      card.append(...layer.activations.map(codesFigure));
    });
    return card;
  });
  const filter = element("input", { type: "search", id: "codes-filter", placeholder: "part of a name", oninput: () => {
    cards.forEach((card, index) => { card.hidden = !histograms.layers[index].name.includes(filter.value.trim()); });
  } });
  section("codes").append(
    note(`Shares of the codes and their entropy (Eq. 7); activations are those of one call: ${histograms.call}. ${histograms.notes.join(" ")}`),
    element("div", { class: "tools" }, element("label", { for: "codes-filter" }, "Layers with"), filter),
    element("div", { class: "cards" }, ...cards));
}

const FIGURES = [
  ["a token", (row) => row.token_ms, (value) => `${value.toPrecision(3)} ms`],
  ["the first token", (row) => row.encoder_ms + row.token_ms, (value) => `${value.toPrecision(3)} ms`],
  ["on disk", (row) => row.size_mib, (value) => `${value.toPrecision(3)} MiB`],
  ["memory", (row) => row.peak_mib, (value) => `${value.toFixed(0)} MiB`],
];

function showBenchmarks(benchmarks) {
  if (missing("benchmarks", benchmarks)) return;
  for (const run of benchmarks) {
    section("benchmarks").append(element("h3", {}, run.title), note(run.conditions));
    const rows = run.rows.filter((row) => !row.skipped);
    for (const [title, figure, text] of FIGURES) {
      const top = Math.max(1e-9, ...rows.map(figure));
      const cells = rows.flatMap((row) => [
        element("span", { class: row.name.startsWith("tbt") ? "name ours" : "name" }, row.name),
        bar(figure(row) / top), element("span", { class: "value" }, text(figure(row))),
      ]);
      section("benchmarks").append(element("h4", {}, title), element("div", { class: "bench" }, ...cells));
    }
    for (const row of run.rows.filter((each) => each.skipped)) section("benchmarks").append(note(`${row.name}: ${row.skipped}`));
  }
}

// The words of a text, those that differ from the first model's marked (longest common subsequence).
function marked(text, first) {
  const [words, others] = [text.split(/(?<=\s)/), first.split(/(?<=\s)/)];
  const same = (a, b) => a.trim() === b.trim();
  const length = Array.from({ length: words.length + 1 }, () => new Array(others.length + 1).fill(0));
  for (let i = words.length - 1; i >= 0; i -= 1) {
    for (let j = others.length - 1; j >= 0; j -= 1) {
      length[i][j] = same(words[i], others[j]) ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const parts = [];
  let j = 0;
  words.forEach((word, i) => {
    while (j < others.length && !same(word, others[j]) && length[i][j + 1] === length[i][j]) j += 1;
    if (j < others.length && same(word, others[j])) { parts.push(word); j += 1; } else parts.push(element("mark", {}, word));
  });
  return parts;
}

function showSamples(samples) {
  if (missing("samples", samples)) return;
  const heading = ["source", ...samples.names].map((name) => element("th", { scope: "col" }, name));
  const rows = samples.rows.map(([source, texts]) => element("tr", {}, element("td", {}, source), ...texts.map((text, index) => {
    if (text === null) return element("td", { class: "kind" }, "(no text)");
    return element("td", {}, ...(index === 0 || texts[0] === null ? [text] : marked(text, texts[0])));
  })));
  if (samples.names.length > 1) section("samples").append(note(`Words that ${samples.names[0]} does not write in that place are marked.`));
  section("samples").append(element("div", { class: "wide tall", tabindex: 0, role: "region", "aria-label": "Texts side by side" },
    element("table", {}, element("thead", {}, element("tr", {}, ...heading)), element("tbody", {}, ...rows))));
}

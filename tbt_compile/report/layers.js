// The table of layers: bytes before and after, multiplications, and time where it was measured.

function layerRows(report) {
  const times = report.times.missing === undefined ? report.times : null;
  const rows = report.summary.layers.map((layer) => ({
    name: layer.name || "(model)",
    kind: layer.kind,
    bits: [...layer.activations.map((each) => `${each.name} ${each.encoding}`), ...(layer.weight ? [`weight ${layer.weight}`] : [])],
    why: layer.activations.map((each) => each.why).filter(Boolean).join("; "),
    parameters: layer.parameters,
    before: layer.bytes_before,
    after: layer.bytes_after,
    macs: layer.macs || 0,
    time: times ? times.layers[layer.name] || 0 : 0,
  }));
  const known = new Set(report.summary.layers.map((layer) => layer.name));
  const rest = times ? Object.entries(times.layers).filter(([name]) => !known.has(name)) : [];
  for (const [, time] of rest) {
    rows.push({ name: "(no layer)", kind: "masks, positions, sums", bits: [], why: "", parameters: 0, before: 0, after: 0, macs: 0, time });
  }
  return rows;
}

function showLayers(report) {
  const rows = layerRows(report);
  const times = report.times;
  const timed = times.missing === undefined;
  if (timed) section("layers").append(note(`Time: ${times.work}, ${times.cpu}; ${microseconds(times.total)} in kernels.`));
  else missing("layers", times);
  if (report.summary.uncounted) section("layers").append(note(`Multiplications are not counted: ${report.summary.uncounted}`));
  const largest = (key) => Math.max(1e-9, ...rows.map((row) => row[key]));
  const size = Math.max(largest("before"), largest("after"));
  const figure = (key, text, top, kind) => (row) => element("td", { class: "number" }, text(row[key]), bar(row[key] / top, kind));
  const columns = [
    ["layer", "name", (row) => element("th", { scope: "row" }, row.name)],
    ["kind", "kind", (row) => element("td", { class: "class" }, row.kind)],
    ["operands", "bits", (row) => element("td", { title: row.why }, ...row.bits.map((text) => element("div", { class: "operand" }, text)))],
    ["parameters", "parameters", (row) => element("td", { class: "number" }, amount(row.parameters))],
    ["before", "before", figure("before", bytes, size, "before")],
    ["after", "after", figure("after", bytes, size, "")],
    ["MACs", "macs", figure("macs", amount, largest("macs"), "")],
    ...(timed ? [["time", "time", figure("time", microseconds, largest("time"), "")]] : []),
  ];
  const body = element("tbody");
  const draw = () => body.replaceChildren(...rows.map((row) => element("tr", {}, ...columns.map(([, , cell]) => cell(row)))));
  const sortBy = (key, heading, headings) => {
    const descending = heading.getAttribute("aria-sort") !== "descending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const compare = (a, b) => (typeof a[key] === "number" ? a[key] - b[key] : String(a[key]).localeCompare(String(b[key]), "en", { numeric: true }));
    rows.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
    draw();
  };
  const headings = columns.map(([text, key]) => {
    const heading = element("th", { scope: "col" });
    heading.append(element("button", { type: "button", onclick: () => sortBy(key, heading, headings) }, text));
    return heading;
  });
  draw();
  section("layers").append(element("div", { class: "wide tall", tabindex: 0, role: "region", "aria-label": "Table of layers" },
    element("table", {}, element("thead", {}, element("tr", {}, ...headings)), body)));
}

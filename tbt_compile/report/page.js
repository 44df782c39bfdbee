// Fills the sections, the graph last: what is above it can be painted first.

function showOverview(report) {
  const facts = report.facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]);
  section("overview").append(element("dl", { class: "facts" }, ...facts));
}

function switchTheme() {
  const root = document.documentElement;
  const button = section("theme");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
}

const report = JSON.parse(section("data").textContent);
switchTheme();
showOverview(report);
showGraph(report.graphs);
showLayers(report);
showCodes(report.histograms);
showBenchmarks(report.benchmarks);
showSamples(report.samples);
